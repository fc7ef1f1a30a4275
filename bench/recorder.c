/* A receiver that remembers when each call came, for proofs about limits, order and fairness.
 *
 *   cc -O2 -o recorder recorder.c && ./recorder [ADDRESS] [PORT]   prints its port, ends when stdin closes
 *   POST /STREAM/DELAY/FAILING/...    200 after DELAY ms; 503 for FAILING % of the calls, at random
 *   GET  /count                       how many calls came in
 *   GET  /log                         one struct record for each call, in the order of arrival
 *   GET  /reset                       forgets them
 *
 * STREAM is a number that tells services apart; the body's first "n": number tells messages apart. One thread,
 * level-triggered epoll, one timer. Bodies come with Content-Length, and calls on a connection one after the other.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 16384, ROOM = 32 * 1024, STREAMS = 65536, RECORDS = 1 << 22, PLANNED = 1 << 18 };

struct record {
    uint32_t stream, number;
    uint64_t at, answered;     /* microseconds since the epoch; answered is 0 where the caller went away */
    uint32_t status, together; /* together: calls of this stream under way when this one came, itself included */
};

struct connection {
    char *bytes;
    size_t filled;
    struct record *waiting; /* the call that is not answered yet */
};

struct answer { /* in a heap, the next one first */
    uint64_t due;
    int fd;
    struct record *of;
};

static struct connection connections[CONNECTIONS];
static struct record *records;
static size_t count;
static unsigned under_way[STREAMS];
static struct answer *heap;
static size_t planned;
static int timer;
static uint64_t seed = 88172645463325252ull;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return time.tv_sec * 1000000ull + time.tv_nsec / 1000;
}

static unsigned percent(void) { /* xorshift64 */
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed % 100;
}

static void set_timer(void) {
    struct itimerspec when = {0};
    if (planned) {
        when.it_value.tv_sec = heap[0].due / 1000000;
        when.it_value.tv_nsec = heap[0].due % 1000000 * 1000;
    }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void plan(struct answer it) {
    size_t at = planned++;
    for (; at && heap[(at - 1) / 2].due > it.due; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = it;
    if (!at) set_timer();
}

static struct answer next(void) {
    struct answer first = heap[0], last = heap[--planned];
    size_t at = 0, child;
    while ((child = 2 * at + 1) < planned) {
        if (child + 1 < planned && heap[child + 1].due < heap[child].due) child++;
        if (heap[child].due >= last.due) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return first;
}

static void drop(int fd) {
    struct connection *it = &connections[fd];
    if (it->waiting) under_way[it->waiting->stream]--;
    it->waiting = NULL;
    it->filled = 0;
    close(fd);
}

static int say(int fd, const char *text, size_t length) {
    return write(fd, text, length) == (ssize_t)length ? 0 : -1; /* answers are tiny: a full buffer is a lost peer */
}

static int answer(int fd) {
    static const char good[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    static const char bad[] = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}";
    struct record *it = connections[fd].waiting;
    connections[fd].waiting = NULL;
    under_way[it->stream]--;
    it->answered = now();
    return it->status == 200 ? say(fd, good, sizeof good - 1) : say(fd, bad, sizeof bad - 1);
}

static int take(int fd, const char *head, const char *body, size_t length) {
    unsigned stream = 0, delay = 0, failing = 0;
    const char *path = strchr(head, ' '), *at = memmem(body, length, "\"n\":", 4);
    if (path) sscanf(path, " /%u/%u/%u", &stream, &delay, &failing);
    if (stream >= STREAMS || count == RECORDS || planned == PLANNED) return -1;
    struct record *it = &records[count++];
    *it = (struct record){.stream = stream, .at = now(), .status = percent() < failing ? 503 : 200};
    it->number = at ? strtoul(at + 4, NULL, 10) : 0;
    it->together = ++under_way[stream];
    connections[fd].waiting = it;
    if (!delay) return answer(fd);
    plan((struct answer){it->at + delay * 1000ull, fd, it});
    return 0;
}

static int tell(int fd, const char *head) {
    char text[200];
    char number[24];
    if (!strncmp(head, "GET /reset", 10)) count = 0;
    const char *rest = number;
    size_t left = snprintf(number, sizeof number, "%zu", count);
    if (!strncmp(head, "GET /log", 8)) rest = (const char *)records, left = count * sizeof *records;
    int length = snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", left);
    fcntl(fd, F_SETFL, 0); /* the log is long, and its reader measures nothing until it has it */
    int bad = say(fd, text, length);
    while (left && !bad) {
        ssize_t wrote = write(fd, rest, left);
        if (wrote < 0) bad = -1;
        else rest += wrote, left -= wrote;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return bad;
}

/* Takes the first whole request in the buffer: its length, 0 when more has to come, -1 when it makes no sense. */
static long take_one(int fd, char *bytes, size_t filled) {
    char *end = memmem(bytes, filled, "\r\n\r\n", 4);
    if (!end) return filled == ROOM ? -1 : 0;
    *end = 0; /* the head is a string now */
    char *field = strcasestr(bytes, "\r\ncontent-length:");
    size_t head = end + 4 - bytes, body = field ? strtoul(field + 17, NULL, 10) : 0;
    if (head + body > ROOM) return -1;
    if (head + body > filled) {
        *end = '\r';
        return 0;
    }
    if (*bytes == 'G' ? tell(fd, bytes) : take(fd, bytes, bytes + head, body)) return -1;
    return head + body;
}

static void hear(int fd) {
    struct connection *it = &connections[fd];
    ssize_t got = read(fd, it->bytes + it->filled, ROOM - it->filled);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) drop(fd);
        return;
    }
    it->filled += got;
    it->bytes[it->filled] = 0; /* numbers end somewhere */
    long length;
    while (it->filled && (length = take_one(fd, it->bytes, it->filled)) != 0) {
        if (length < 0) {
            drop(fd);
            return;
        }
        memmove(it->bytes, it->bytes + length, it->filled -= length);
    }
}

static void answer_due(void) {
    uint64_t fired;
    if (read(timer, &fired, sizeof fired) < 0 && errno != EAGAIN) perror("timer");
    while (planned && heap[0].due <= now()) {
        struct answer it = next();
        if (connections[it.fd].waiting == it.of && answer(it.fd)) drop(it.fd); /* else its caller went away */
    }
    set_timer();
}

static void welcome(int poll, int listener) {
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= CONNECTIONS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        if (!connections[fd].bytes) connections[fd].bytes = malloc(ROOM + 1);
        struct epoll_event wish = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &wish);
    }
}

int main(int arguments, char **argument) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0), yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (arguments > 1) inet_pton(AF_INET, argument[1], &address.sin_addr);
    if (arguments > 2) address.sin_port = htons(atoi(argument[2]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (void *)&address, size) || listen(listener, 4096)) return perror("recorder"), 1;
    getsockname(listener, (void *)&address, &size);
    records = malloc(RECORDS * sizeof *records); /* taken from the system as it fills */
    heap = malloc(PLANNED * sizeof *heap);
    timer = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    struct epoll_event wish = {.events = EPOLLIN, .data.fd = listener}, events[256];
    int watched[] = {listener, timer, 0}; /* 0: the process that started us holds the other end */
    for (int i = 0; i < 3; i++) wish.data.fd = watched[i], epoll_ctl(poll, EPOLL_CTL_ADD, watched[i], &wish);
    for (;;) {
        int ready = epoll_wait(poll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == 0) return 0;
            if (fd == listener) welcome(poll, listener);
            else if (fd == timer) answer_due();
            else hear(fd);
        }
    }
}
