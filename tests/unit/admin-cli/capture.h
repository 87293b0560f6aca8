/* capture.h - what code under test prints: standard output and standard error go to files in between. */
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct capture {
    FILE *files[2];
    int saved[2];
    char *text[2]; /* after capture_end: out, err; freed by capture_release */
};

static inline void capture_begin(struct capture *c)
{
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 2; i++) {
        c->files[i] = tmpfile();
        c->saved[i] = dup(i + 1);
        if (!c->files[i] || c->saved[i] < 0 || dup2(fileno(c->files[i]), i + 1) < 0)
            abort();
        c->text[i] = NULL;
    }
}

static inline void capture_end(struct capture *c)
{
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 2; i++) {
        if (dup2(c->saved[i], i + 1) < 0)
            abort();
        close(c->saved[i]);
        const long len = lseek(fileno(c->files[i]), 0, SEEK_END);
        c->text[i] = calloc(1, (size_t)len + 1);
        if (!c->text[i] || pread(fileno(c->files[i]), c->text[i], (size_t)len, 0) != len)
            abort();
        fclose(c->files[i]);
    }
}

static inline void capture_release(struct capture *c)
{
    free(c->text[0]);
    free(c->text[1]);
}

/* Appends to a text in an array of so many bytes. */
static inline void text_add(char *to, size_t bytes, const char *more)
{
    const size_t len = strlen(to);
    if (len + strlen(more) >= bytes)
        abort();
    memcpy(to + len, more, strlen(more) + 1);
}
