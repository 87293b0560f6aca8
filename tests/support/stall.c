/* stall - makes another process's main thread spin where it stands, as a bug would: writes "jump to yourself" over its
 * next instruction (in its own copy of the page) and lets it go. For tests of the watchdog. Ends with 77 where this is
 * not allowed or the machine's instruction is not known here. */
#include "common/base.h"
#include <errno.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#define SKIP 77

#if defined(__x86_64__)
#define SELF_JUMP 0xfeebull /* jmp .-0, little-endian */
#define JUMP_MASK 0xffffull
#define PC        rip
#elif defined(__aarch64__)
#define SELF_JUMP 0x14000000ull /* b . */
#define JUMP_MASK 0xffffffffull
#define PC        pc
#endif

int main(int argc, char **argv)
{
#ifdef SELF_JUMP
    struct user_regs_struct registers;
    struct iovec vector = { &registers, sizeof(registers) };
    char *end = NULL;
    const long pid = argc == 2 ? strtol(argv[1], &end, 10) : 0;
    if (pid <= 0 || *end) {
        fputs("usage: stall PID\n", stderr);
        return 2;
    }
    if (ptrace(PTRACE_ATTACH, (pid_t)pid, NULL, NULL)) {
        perror("stall");
        return errno == EPERM ? SKIP : 1;
    }
    if (waitpid((pid_t)pid, NULL, __WALL) != (pid_t)pid ||
        ptrace(PTRACE_GETREGSET, (pid_t)pid, (void *)1 /* NT_PRSTATUS */, &vector)) {
        perror("stall");
        return 1;
    }
    void *const at = (void *)(uintptr_t)registers.PC;
    errno = 0;
    const uint64_t word = (uint64_t)ptrace(PTRACE_PEEKTEXT, (pid_t)pid, at, NULL);
    const uint64_t jump = (word & ~JUMP_MASK) | SELF_JUMP;
    if (errno || ptrace(PTRACE_POKETEXT, (pid_t)pid, at, (void *)(uintptr_t)jump) ||
        ptrace(PTRACE_DETACH, (pid_t)pid, NULL, NULL)) {
        perror("stall");
        return 1;
    }
    return 0;
#else
    (void)argc;
    (void)argv;
    return SKIP;
#endif
}
