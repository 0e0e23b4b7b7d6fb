/* An HTTP server in C: says hello, the Pod's name, and which path was asked for. Plain sockets, which wasi-libc makes of
 * wasi:sockets; one connection at a time. The same source is a native program. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PORT = 8080, MOST = 8192 };

/* Reads until the head of the request is whole, or as much as fits. */
static size_t read_head(int connection, char *head) {
    size_t length = 0;
    while (length < MOST - 1) {
        ssize_t got = recv(connection, head + length, MOST - 1 - length, 0);
        if (got <= 0)
            break;
        length += (size_t)got;
        head[length] = 0;
        if (strstr(head, "\r\n\r\n"))
            break;
    }
    head[length] = 0;
    return length;
}

static void send_all(int connection, const char *text, size_t length) {
    while (length > 0) {
        ssize_t sent = send(connection, text, length, 0);
        if (sent <= 0)
            return;
        text += sent;
        length -= (size_t)sent;
    }
}

static void answer(int connection) {
    static char head[MOST], body[MOST + 256], response[MOST + 512];
    char path[MOST];
    if (read_head(connection, head) == 0 || sscanf(head, "%*s %8191s", path) != 1)
        return;
    const char *pod = getenv("POD_NAME");
    int length = snprintf(body, sizeof body, "hello from c\npod: %s\npath: %s\n", pod ? pod : "", path);
    int whole = snprintf(response, sizeof response,
                         "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s",
                         length, body);
    send_all(connection, response, (size_t)whole);
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 64)) {
        perror("listening");
        return 1;
    }
    printf("listening on %d\n", PORT);
    fflush(stdout);
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0) {
            perror("accepting");
            return 1;
        }
        answer(connection);
        close(connection);
    }
}
