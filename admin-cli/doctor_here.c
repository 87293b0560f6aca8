/* This machine's part of the house: files, permissions, programs, sockets, disk, descriptors. */
#include "admin-cli/doctor.h"
#include "common/file.h"
#include "proto/home.h"
#include "proto/limits.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define DESCRIPTORS_LEAST 4096u /* two for each request under way, and as many again for keep-alive */
#define WORDS_BYTES_MAX   65536u

extern char **environ;

/* ---- files ---- */

static void judge_owner(struct doctor *d, const char *path, const struct stat *st)
{
    if (st->st_uid != geteuid() && st->st_uid != 0 && geteuid() != 0)
        doctor_add(d, DOCTOR_NOTE, "files", "run `fairlead doctor` as its owner to look into it all",
                   "%s is another user's (uid %u)", path, (unsigned)st->st_uid);
}

/* forbidden: the bits that nobody but the owner may have. */
static void judge_file(struct doctor *d, const struct cli *cli, const char *name, mode_t forbidden,
                       enum doctor_level level, const char *advice)
{
    struct stat st;
    char *path = *name ? file_join(cli->home, name) : strdup(cli->home);
    if (path && stat(path, &st) == 0 && (st.st_mode & forbidden))
        doctor_add(d, level, "files", advice, "%s has the mode %04o", path, (unsigned)(st.st_mode & 07777));
    free(path);
}

static bool look_at_files(struct doctor *d, const struct cli *cli)
{
    const unsigned before = d->count;
    struct stat st;
    if (stat(cli->home, &st) != 0) {
        doctor_add(d, DOCTOR_NOTE, "files", "--home names another; `fairlead init` begins one",
                   "there is no home on this machine: %s: %s", cli->home, strerror(errno));
        return false;
    }
    judge_owner(d, cli->home, &st);
    judge_file(d, cli, "", 0022, DOCTOR_ERROR, "chmod 700: whoever can write it can change what is served");
    judge_file(d, cli, HOME_RUN, 0022, DOCTOR_ERROR, "chmod 700: whoever can write it can take the place of sockets");
    judge_file(d, cli, "", 0045, DOCTOR_WARNING, "chmod 700 (710 where a group may ask the control plane)");
    judge_file(d, cli, HOME_NODE_CONFIG, 0022, DOCTOR_ERROR, "chmod 600: it says where credentials are sent");
    judge_file(d, cli, HOME_NODE_CONFIG, 0004, DOCTOR_WARNING, "chmod 600: it says where credentials come from");
    judge_file(d, cli, HOME_POLICY, 0022, DOCTOR_WARNING, "chmod 600: `fairlead up` may push it");
    judge_file(d, cli, HOME_ROLES, 0022, DOCTOR_ERROR,
               "chmod 600: until then it is not believed, and only root and the owner have a role");
    if (strlen(cli->home) + sizeof("/" HOME_EVIDENCE_SOCKET) > IPC_PATH_BYTES_MAX)
        doctor_add(d, DOCTOR_ERROR, "files", "choose a shorter --home",
                   "the home's name is too long for sockets in it");
    doctor_good_since(d, before, "files", "%s is its owner's alone", cli->home);
    return true;
}

/* ---- programs ---- */

static void look_at_programs(struct doctor *d, const struct cli *cli)
{
    static const struct {
        const char *name, *lock, *without;
        enum doctor_level level;
    } programs[] = {
        { "the control plane", HOME_CONTROL_LOCK, "nothing can be changed", DOCTOR_NOTE },
        { "the node", HOME_NODE_LOCK, "this machine serves nobody", DOCTOR_NOTE },
        { "the prober", HOME_PROBER_LOCK, "a provider that is down is found only by requests that fail",
          DOCTOR_WARNING },
        { "the price feed", HOME_PRICEFEED_LOCK, "prices stay as they are", DOCTOR_WARNING },
    };
    const unsigned before = d->count;
    unsigned running = 0;
    for (size_t i = 0; i < ARRAY_LEN(programs); i++)
        running += cli_holder(cli, programs[i].lock) != 0;
    if (running == 0) {
        doctor_add(d, DOCTOR_NOTE, "programs", "`fairlead up` starts all of them", "nothing runs in %s", cli->home);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(programs); i++) {
        if (!cli_holder(cli, programs[i].lock))
            doctor_add(d, programs[i].level, "programs", "fine where it runs on another machine; else `fairlead up`",
                       "%s does not run here: %s", programs[i].name, programs[i].without);
    }
    doctor_good_since(d, before, "programs", "%u of %zu run here", running, ARRAY_LEN(programs));
}

static bool read_text(const char *path, struct buf *out)
{
    return file_read(path, WORDS_BYTES_MAX, out) == OK && buf_append_byte(out, '\0') == OK;
}

static unsigned count_descriptors(long pid)
{
    char path[64];
    unsigned count = 0;
    snprintf(path, sizeof(path), "/proc/%ld/fd", pid);
    DIR *dir = opendir(path);
    for (; dir && readdir(dir); count++)
        ;
    if (dir)
        closedir(dir);
    return count;
}

static void look_at_descriptors(struct doctor *d, const struct cli *cli)
{
    struct buf text = BUF_INIT(WORDS_BYTES_MAX + 1);
    const long pid = cli_holder(cli, HOME_NODE_LOCK);
    unsigned long soft = 0;
    char path[64];
    snprintf(path, sizeof(path), "/proc/%ld/limits", pid);
    const char *line = pid && read_text(path, &text) ? strstr(buf_cstr(&text), "Max open files") : NULL;
    if (line && sscanf(line + strlen("Max open files"), "%lu", &soft) == 1) {
        const unsigned used = count_descriptors(pid);
        if (soft < DESCRIPTORS_LEAST)
            doctor_add(d, DOCTOR_WARNING, "descriptors", "ulimit -n 65536, or LimitNOFILE= in the unit",
                       "the node's processes may open %lu files each: connections are refused beyond that", soft);
        else if (used * 5ul > soft * 4)
            doctor_add(d, DOCTOR_WARNING, "descriptors", "ulimit -n, or LimitNOFILE= in the unit",
                       "the node's master has %u of %lu descriptors open", used, soft);
        else
            doctor_add(d, DOCTOR_GOOD, "descriptors", NULL, "the node's processes may open %lu each", soft);
    }
    buf_release(&text);
}

/* The node's own judgement of its configuration, with what is wrong. */
static void look_at_config(struct doctor *d, const struct cli *cli)
{
    char *config = file_join(cli->home, HOME_NODE_CONFIG), *program = cli_program("fairlead-dataplane");
    char *argv[] = { program, (char *)(uintptr_t) "--home", cli->home, (char *)(uintptr_t) "--check-config", NULL };
    struct buf out = BUF_INIT(WORDS_BYTES_MAX + 1);
    posix_spawn_file_actions_t actions;
    int ends[2] = { -1, -1 }, status = 0;
    pid_t pid = 0;
    if (config && program && file_exists(config) && pipe2(ends, O_CLOEXEC) == 0) {
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
        posix_spawn_file_actions_adddup2(&actions, ends[1], 2);
        const int rc = posix_spawnp(&pid, program, &actions, NULL, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
        close(ends[1]);
        char piece[4096];
        ssize_t n;
        while (rc == 0 && (n = read(ends[0], piece, sizeof(piece))) > 0) {
            if (out.len < WORDS_BYTES_MAX - sizeof(piece) && buf_append(&out, span_of(piece, (size_t)n)) != OK)
                break;
        }
        close(ends[0]);
        if (rc == 0)
            waitpid(pid, &status, 0);
        const struct span said = span_head(buf_span(&out), size_min(span_find_eol(buf_span(&out)), 400));
        if (rc != 0)
            doctor_add(d, DOCTOR_ERROR, "programs", "install it beside this program",
                       "fairlead-dataplane cannot be run: %s", strerror(rc));
        else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            doctor_add(d, DOCTOR_ERROR, "configuration",
                       "mend it before the next start or `fairlead reload`: what runs goes on", "%s: " SPAN_FMT, config,
                       SPAN_ARG(said));
        else
            doctor_add(d, DOCTOR_GOOD, "configuration", NULL, "%s passes its check", config);
    }
    buf_release(&out);
    free(config);
    free(program);
}

/* ---- room ---- */

static void look_at_disks(struct doctor *d, const struct cli *cli)
{
    struct statvfs fs;
    if (statvfs(cli->home, &fs) == 0)
        doctor_disk(d, "this home", cli->home, (uint64_t)fs.f_bavail * fs.f_frsize,
                    (uint64_t)fs.f_blocks * fs.f_frsize);
    if (statvfs("/dev/shm", &fs) == 0 && fs.f_blocks && (uint64_t)fs.f_bavail * fs.f_frsize < (UINT64_C(16) << 20))
        doctor_add(d, DOCTOR_WARNING, "disk", "the node's board lies there: without room for it no node starts",
                   "/dev/shm has %.1f MiB left", (double)fs.f_bavail * (double)fs.f_frsize / (1 << 20));
}

void doctor_look_here(struct doctor *d, struct cli *cli)
{
    if (!look_at_files(d, cli))
        return;
    look_at_programs(d, cli);
    look_at_config(d, cli);
    look_at_descriptors(d, cli);
    look_at_disks(d, cli);
}
