/* runtime.h - front header of the floor runtime/. */
#ifndef PF_RUNTIME_H
#define PF_RUNTIME_H

#include "base.h"
#include "config.h"
#include "cpu.h"
#include "engine.h"
#include "heap.h"
#include "index.h"
#include "meter.h"
#include "number.h"
#include "parallel.h"
#include "progress.h"
#include "rng.h"
#include "status.h"

#endif
