/* The receiving end of a benchmark: an HTTP/1.1 server that answers every POST with 200 and counts.
 *
 *   cc -O2 -o sink sink.c && ./sink        prints the port it listens on (127.0.0.1), ends when stdin closes
 *   POST /anything                         200; the body's first "n": number is counted once
 *   GET  /counts                           {"calls": …, "unique": …}
 *   GET  /reset                            both are 0 again
 *
 * One thread, level-triggered epoll. Bodies come with Content-Length. A slow sink would measure itself.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS = 16384, ROOM = 32 * 1024, NUMBERS = 1 << 24 };

struct connection {
    char *bytes;
    size_t filled;
};

static struct connection connections[CONNECTIONS];
static unsigned char seen[NUMBERS / 8];
static unsigned long calls, unique;
static const char ACCEPTED[] =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{\"ok\":true}";

static void count(const char *body, size_t length) {
    const char *at = memmem(body, length, "\"n\":", 4);
    unsigned long number = at ? strtoul(at + 4, NULL, 10) : NUMBERS;
    calls++;
    if (number < NUMBERS && !(seen[number / 8] & (1 << number % 8))) {
        seen[number / 8] |= 1 << number % 8;
        unique++;
    }
}

static int say(int fd, const char *text, size_t length) {
    return write(fd, text, length) == (ssize_t)length ? 0 : -1; /* answers are tiny: a full buffer is a lost peer */
}

static int tell(int fd, const char *head) {
    char body[80], answer[240];
    if (!strncmp(head, "GET /reset", 10)) {
        memset(seen, 0, sizeof seen);
        calls = unique = 0;
    }
    int length = snprintf(body, sizeof body, "{\"calls\": %lu, \"unique\": %lu}", calls, unique);
    length = snprintf(answer, sizeof answer,
                      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", length, body);
    return say(fd, answer, length);
}

/* Answers the first whole request in the buffer: its length, 0 when more has to come, -1 when it makes no sense. */
static long answer_one(int fd, char *bytes, size_t filled) {
    char *end = memmem(bytes, filled, "\r\n\r\n", 4);
    if (!end) return filled == ROOM ? -1 : 0;
    *end = 0; /* the head is a string now */
    char *field = strcasestr(bytes, "\r\ncontent-length:");
    size_t head = end + 4 - bytes, body = field ? strtoul(field + 17, NULL, 10) : 0;
    *end = '\r';
    if (head + body > ROOM) return -1;
    if (head + body > filled) return 0;
    if (*bytes == 'P') {
        count(bytes + head, body);
        if (say(fd, ACCEPTED, sizeof ACCEPTED - 1)) return -1;
    } else if (tell(fd, bytes)) {
        return -1;
    }
    return head + body;
}

static void drop(int fd) {
    connections[fd].filled = 0;
    close(fd);
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
    size_t used = 0;
    while (used < it->filled) {
        long length = answer_one(fd, it->bytes + used, it->filled - used);
        if (length < 0) {
            drop(fd);
            return;
        }
        if (length == 0) break;
        used += length;
    }
    memmove(it->bytes, it->bytes + used, it->filled - used);
    it->filled -= used;
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

int main(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (void *)&address, size) || listen(listener, 4096)) return perror("sink"), 1;
    getsockname(listener, (void *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    struct epoll_event wish = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &wish);
    wish.data.fd = 0; /* the process that started us holds the other end */
    epoll_ctl(poll, EPOLL_CTL_ADD, 0, &wish);
    for (;;) {
        int ready = epoll_wait(poll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == 0) return 0;
            if (events[i].data.fd == listener) welcome(poll, listener);
            else hear(events[i].data.fd);
        }
    }
}
