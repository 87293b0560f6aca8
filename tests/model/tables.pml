/* tables.pml - publishing, rolling out, rolling back and restoring tables, as a model for Spin.
 *
 * One control plane with its store, one operator, an automatic rollout (the pilot), NODES nodes each with a store and
 * workers. Messages are lost, repeated and late; the control plane and the nodes crash; the store is once replaced by a
 * backup. Every fault has a budget, so that each run ends; Spin looks at all of them.
 *
 * What is asserted, and where the code keeps it:
 *   no older table    a node's (epoch, generation) never falls: proto/tablestore compares at apply. Another epoch only with
 *                     the leave of `nodes adopt`: dataplane/node/replica_stage. Rolling back is a newer head with older content.
 *   no half table     a head is committed together with the artifacts it names: one LMDB transaction.
 *   commands          an acknowledged command is in the store once, however often it was sent: controlplane/admin/service
 *                     stores the answer in the transaction of the change. A restored store forgets what it never held.
 *   no return         after a rollback its rollout's canary gets no more traffic, whatever the pilot had decided before:
 *                     the decision is compared with the store where it is applied.
 *   one generation    when nothing is left to happen, every node serves what the store says.
 *
 * tests/model/run checks this, and that the model finds what goes wrong when one of the defences is taken away:
 *   -DNO_TAGS      replies to earlier requests are taken, and -DNO_COMPARE a node applies whatever arrives: with both gone
 *                  a late reply takes a node back; the first alone does so over an adopted restore
 *   -DTWO_COMMITS  head first, artifacts after                -DNO_ANSWERS    request ids are not remembered
 *   -DSPLIT_ANSWER the answer is stored after the change      -DBLIND_PILOT   the pilot applies what it decided earlier
 *   -DNO_LEAVE     another epoch is taken without leave       -DDEAF          a lost poll is not asked again
 *
 * Not here: a node whose workers crash on a new table reverts to the one before by itself, and says so (NACK "crashed"). */

#ifndef NODES
#define NODES 2
#endif
#define HEADS    8 /* generations, at most: three pushes with all their steps, and the first */
#define COMMANDS 4 /* request ids of the operator's commands, from 1 */
#define STEPS    1 /* of a rollout, before 100% */

/* Losses, repeats, late replies and crashes of one run, together. */
#ifndef FAULTS
#define FAULTS 2
#endif

#ifndef RESTORES
#define RESTORES 0
#endif

mtype = { PUSH, ROLLBACK, ADOPT };

/* A head: who is stable, who is the canary (0: none) and at which step. */
typedef Head {
    byte epoch, generation, stable, canary, step
};
typedef Store {
    Head head;
    byte previous;           /* what held 100% before */
    byte rollout;            /* number of the running rollout; 0: none */
    byte rollouts;           /* begun so far */
    bool adopt_all;          /* stored leave to take this epoch */
    bool answered[COMMANDS + 1];
    byte done[COMMANDS + 1]; /* how often the change of a command stands in this store's past */
};
Store store, backup;
bool has_backup, forgotten; /* forgotten: a restore came after it was acknowledged */
bool ended[COMMANDS + 1]; /* rollouts that were rolled back: by number, over all stores */
byte faults = FAULTS, restores = RESTORES;

/* Polls held by the control plane (volatile). */
typedef Poll {
    byte tag, epoch, generation, refused;
    bool held
};
Poll polls[NODES];

chan replies[NODES] = [3] of { byte, byte, byte, byte, byte, byte, byte, bool }; /* tag, head, artifacts, leave */
chan commands = [1] of { byte, mtype };
chan answers = [1] of { byte };

typedef Node {
    byte epoch, generation, stable, canary, step, artifacts; /* its store */
    byte tag;
    byte refused;          /* an epoch that it was offered and may not take: told with each poll */
    bool waiting, unheard; /* unheard: the request or its reply was lost, the time limit will tell */
};
Node nodes[NODES];
bool operator_done;

#define BIT(version)                  (1 << (version))
#define NEEDS(stable, canary)         (BIT(stable) | (canary -> BIT(canary) : 0))
#define LACKS(n)                                                                                                       \
    (polls[n].held && nfull(replies[n]) &&                                                                             \
     (polls[n].epoch != store.head.epoch || polls[n].generation != store.head.generation) &&                           \
     (polls[n].refused != store.head.epoch || store.adopt_all))
#define CURRENT(n) (nodes[n].epoch == store.head.epoch && nodes[n].generation == store.head.generation)

/* ---- the control plane ---- */

inline publish()
{
    store.head.generation++;
    assert(store.head.generation <= HEADS);
    assert(!store.head.canary || !ended[store.rollout])
}

inline change(what)
{
    if
    :: what == PUSH -> /* a running rollout is replaced */
        if
        :: store.rollout -> ended[store.rollout] = true
        :: else
        fi;
        store.rollouts++;
        store.rollout = store.rollouts;
        store.head.canary = (store.head.stable == 2 -> 3 : 2);
        store.head.step = 1;
        publish()
    :: what == ROLLBACK && store.rollout ->
        ended[store.rollout] = true;
        store.rollout = 0;
        store.head.canary = 0;
        store.head.step = 0;
        publish()
    :: what == ROLLBACK && !store.rollout && store.previous ->
        store.head.stable = store.previous;
        store.previous = 0;
        publish()
    :: what == ROLLBACK && !store.rollout && !store.previous /* nothing to return to */
    :: what == ADOPT -> store.adopt_all = true
    fi
}

/* One transaction: the change and its answer, or nothing. */
inline execute(id, what)
{
    if
#ifndef NO_ANSWERS
    :: store.answered[id]
    :: !store.answered[id] ->
#else
    :: true ->
#endif
        change(what);
        store.done[id]++;
        assert(store.done[id] == 1)
#ifndef SPLIT_ANSWER
        store.answered[id] = true
#endif
    fi
}

inline copy(to, from)
{
    to.head.generation = from.head.generation;
    to.head.stable = from.head.stable;
    to.head.canary = from.head.canary;
    to.head.step = from.head.step;
    to.previous = from.previous;
    to.rollout = from.rollout;
    to.rollouts = from.rollouts;
    for (k : 1 .. COMMANDS) {
        to.answered[k] = from.answered[k];
        to.done[k] = from.done[k]
    }
    k = 0
}

/* What is not stored is gone: polls, and what the pilot had decided. */
inline die()
{
    decided = false;
    decided_rollout = 0;
    decided_canary = 0;
    decided_step = 0;
    for (k : 0 .. NODES - 1) {
        nodes[k].unheard = nodes[k].unheard || polls[k].held;
        polls[k].held = false;
        polls[k].tag = 0;
        polls[k].epoch = 0;
        polls[k].generation = 0;
    polls[k].refused = 0
    }
    k = 0
}

inline reply_to(n)
{
    replies[n]!polls[n].tag, store.head.epoch, store.head.generation, store.head.stable, store.head.canary,
        store.head.step, NEEDS(store.head.stable, store.head.canary), store.adopt_all
}

inline answer_poll(n)
{
    if
    :: faults > 0 -> faults--; nodes[n].unheard = true
    :: reply_to(n)
    :: faults > 0 && len(replies[n]) < 2 -> faults--; reply_to(n); reply_to(n)
    fi;
    polls[n].held = false;
    polls[n].tag = 0;
    polls[n].epoch = 0;
    polls[n].generation = 0;
    polls[n].refused = 0
}

/* The step after the last makes the canary stable and ends the rollout. */
inline take_step()
{
    assert(!ended[decided_rollout]);
    if
    :: decided_step == STEPS ->
        store.previous = store.head.stable;
        store.head.stable = decided_canary;
        store.head.canary = 0;
        store.head.step = 0;
        publish();
        store.rollout = 0
    :: decided_step < STEPS ->
        store.head.step = decided_step + 1;
        publish()
    fi
}

active proctype Control()
{
    byte id, k, decided_rollout, decided_canary, decided_step;
    mtype what;
    bool decided;
end:
    do
    :: atomic { commands?id, what ->
        execute(id, what);
        if
        :: faults > 0 -> faults--; answers!0 /* lost, or killed before it was sent: the sender's time runs out */
        :: answers!id
#ifdef SPLIT_ANSWER
           ; store.answered[id] = true /* too late for the case above */
#endif
        fi;
        id = 0;
        what = 0
    }

    /* The pilot judges what it has read, and applies it later: a rollback may come in between. */
    :: atomic { !decided && store.rollout ->
        decided = true;
        decided_rollout = store.rollout;
        decided_canary = store.head.canary;
        decided_step = store.head.step
    }
    :: atomic { decided ->
        if
#ifdef BLIND_PILOT
        :: take_step()
#else
        :: store.rollout == decided_rollout && store.head.step == decided_step -> take_step()
        :: else
#endif
        fi;
        decided = false;
        decided_rollout = 0;
        decided_canary = 0;
    decided_canary = 0;
        decided_step = 0
    }
    :: atomic { LACKS(0) -> answer_poll(0) }
#if NODES > 1
    :: atomic { LACKS(1) -> answer_poll(1) }
#endif
    :: atomic { restores > 0 && !has_backup && store.head.generation > 1 ->
        has_backup = true;
        copy(backup, store)
    }
    :: atomic { faults > 0 ->
        faults--;
        die()
    }
    /* The store is replaced while the control plane is down: another epoch, in which no node believes it by itself. */
    :: atomic { restores > 0 && has_backup ->
        restores--;
        die();
        copy(store, backup);
        store.head.epoch++;
        store.adopt_all = false;
        for (k : 1 .. COMMANDS) {
            ended[k] = false /* a rollout that had not ended at the time of the backup goes on */
        }
        k = 0;
        forgotten = true
    }
    od
}

/* nng gives a reply to the request that it answers, or to nobody. */
#ifdef NO_TAGS
#define EXPECTED true
#else
#define EXPECTED (nodes[n].waiting && tag == nodes[n].tag)
#endif

/* ---- a node ---- */

/* What workers find when they look, at any time: they read in one transaction. */
inline serve()
{
    assert((nodes[n].artifacts & NEEDS(nodes[n].stable, nodes[n].canary)) == NEEDS(nodes[n].stable, nodes[n].canary))
}

inline commit_head()
{
    nodes[n].epoch = epoch;
    nodes[n].generation = generation;
    nodes[n].stable = stable;
    nodes[n].canary = canary;
    nodes[n].step = step
}

inline commit()
{
    commit_head();
#ifdef TWO_COMMITS
    serve();
#endif
    nodes[n].artifacts = nodes[n].artifacts | artifacts;
    serve()
}

inline forget()
{
    tag = 0;
    epoch = 0;
    generation = 0;
    stable = 0;
    canary = 0;
    step = 0;
    artifacts = 0;
    leave = false;
    take = false
}

proctype Fetcher(byte n)
{
    byte tag, epoch, generation, stable, canary, step, artifacts;
    bool leave, take;
end:
    do
    /* A poll with what is committed; a new one takes the place of one that the control plane still holds. */
    :: atomic { !nodes[n].waiting ->
        nodes[n].waiting = true;
        nodes[n].unheard = false;
        nodes[n].tag = (len(replies[n]) == 0 && !polls[n].held -> 0 : nodes[n].tag + 1);
        if
        :: faults > 0 -> faults--; nodes[n].unheard = true
        :: polls[n].held = true;
           polls[n].tag = nodes[n].tag;
           polls[n].epoch = nodes[n].epoch;
           polls[n].generation = nodes[n].generation;
           polls[n].refused = nodes[n].refused
        fi
    }
#ifndef DEAF
    :: atomic { nodes[n].waiting && nodes[n].unheard -> nodes[n].waiting = false }
#endif
    /* It gives up a poll that is answered late. */
    :: atomic { nodes[n].waiting && nempty(replies[n]) && faults > 0 ->
        faults--;
        nodes[n].waiting = false
    }
    /* The first is overtaken by the second. */
    :: atomic { faults > 0 && len(replies[n]) == 2 ->
        faults--;
        replies[n]?tag, epoch, generation, stable, canary, step, artifacts, leave;
        replies[n]!tag, epoch, generation, stable, canary, step, artifacts, leave;
        forget()
    }
    :: atomic { replies[n]?tag, epoch, generation, stable, canary, step, artifacts, leave ->
        take = true;
        if
#ifndef NO_TAGS
        :: !EXPECTED -> take = false /* nobody waits for this one any more */
#endif
#ifndef NO_COMPARE
        :: EXPECTED && epoch == nodes[n].epoch && generation <= nodes[n].generation -> take = false; nodes[n].waiting = false
#endif
#ifndef NO_LEAVE
        :: EXPECTED && epoch != nodes[n].epoch && !leave ->
            take = false;
            nodes[n].waiting = false;
            nodes[n].refused = epoch
#endif
        :: else -> nodes[n].waiting = false
        fi;
        if
        :: !take
        :: take ->
            assert(epoch > nodes[n].epoch || (epoch == nodes[n].epoch && generation > nodes[n].generation));
            assert(epoch == nodes[n].epoch || leave);
            if
            :: faults > 0 -> faults-- /* killed: what is staged is not committed */
            :: commit()
            fi
        fi;
        forget()
    }
    od
}

/* ---- the operator ---- */

/* Sends one command until it is answered, always under one id. */
inline command(number, kind)
{
    forgotten = false;
    commands!number, kind;
    do
    :: answers?heard ->
        if
        :: heard == number -> break
        :: else -> commands!number, kind
        fi
    od;
    assert(store.done[number] == 1 || forgotten)
}

proctype Operator()
{
    byte heard;
    command(1, PUSH);
    if
    :: command(2, ROLLBACK)
    :: command(2, PUSH)
    :: RESTORES > 0 -> command(2, ADOPT)
    :: true
    fi;
    if
    :: command(3, ROLLBACK)
    :: command(3, PUSH)
    :: true
    fi;
    restores = 0; /* what comes now must hold */
    if
    :: store.head.epoch > 1 -> command(4, ADOPT)
    :: else
    fi;
    operator_done = true
}

/* Nothing is left to happen: every command was answered, every node serves what the store says. */
proctype Rest()
{
    timeout;
    assert(operator_done);
    assert(!store.rollout);
    assert(CURRENT(0));
#if NODES > 1
    assert(CURRENT(1))
#endif
}

init {
    atomic {
        store.head.epoch = 1;
        store.head.generation = 1;
        store.head.stable = 1;
        byte n;
        for (n : 0 .. NODES - 1) {
            nodes[n].epoch = 1;
            nodes[n].generation = 1;
            nodes[n].stable = 1;
            nodes[n].artifacts = BIT(1)
        }
        run Fetcher(0);
#if NODES > 1
        run Fetcher(1);
#endif
        run Operator();
        run Rest()
    }
}
