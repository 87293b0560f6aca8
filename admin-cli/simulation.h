/* simulation.h - what simulations print: by `fairlead simulate`, and in short after a push. */
#pragma once
#include "admin-cli/cli.h"

/* The whole report. simulation: the object of simulate.poll ("simulation"); the versions' numbers: 0 for a file. */
void simulation_render(struct cli *cli, const struct json_index *ix, uint32_t simulation, unsigned live,
                       unsigned candidate);
/* Some lines. */
void simulation_render_short(const struct json_index *ix, uint32_t simulation, unsigned live, const char *candidate);
