/* errand.h - what the admin CLI asks of this machine's node, over HOME_NODE_SOCKET, and what it is told.
 *
 * The CLI connects and says one line; it is answered in lines until the errand is over (the connection stays open over
 * an upgrade). Whoever leaves earlier stops nothing.
 *   CLI -> master:  errand reload
 *                   errand upgrade PATH            (an absolute path; "-": where the running program came from)
 *                   errand status                  (answered at once)
 *   master -> CLI:  doing TEXT                     (progress, for people)
 *                   done JSON                      {workers, ms, draining, drain_until_ms, version}: how many were
 *                                                  replaced in what time, how many old ones drain, until when (wall
 *                                                  clock) at most
 *                                                  of status: the page of /status on the operations address
 *                   failed TEXT                    (nothing was changed, but for what TEXT says)
 * Only processes of the node's user, or of the superuser, are heard. */
#pragma once

#define ERRAND_WORD       "errand "
#define ERRAND_RELOAD     "reload"
#define ERRAND_UPGRADE    "upgrade "
#define ERRAND_STATUS     "status"
#define ERRAND_DOING      "doing "
#define ERRAND_DONE       "done "
#define ERRAND_FAILED     "failed "
#define ERRAND_LINE_BYTES 8192u /* a path has 4096 at most */
#define ERRAND_ANSWER_BYTES                                                                                            \
    (256u << 10) /* more than the status of as many workers, draining and not, as there can be */
