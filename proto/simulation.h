/* simulation.h - the files of a simulation's directory: the control plane writes them, `fairlead-dataplane --simulate`
 * and `--decide` read them. Encoded as on the links; what is absent counts as empty. */
#pragma once

#define SIMULATION_LIVE      "live"      /* artifact */
#define SIMULATION_CANDIDATE "candidate" /* artifact */
#define SIMULATION_HEAD      "head"      /* for its overrides */
#define SIMULATION_EVIDENCE  "evidence"
#define SIMULATION_DIRECTORY "directory" /* directory_delta: all teams, and the keys that have routes of their own */
