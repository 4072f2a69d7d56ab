/* A simulated NVIDIA driver library that nvidia-ml-py loads as libnvidia-ml.so.1.

   Each GPU draws the power that the test sets. Its energy counter shows the true integral, as of the last instant of a
   refresh grid. The functions that begin with sim_ are the test's; the others are NVML's. */

#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { MAX_GPUS = 8, SEGMENTS = 1 << 16 };
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, LIBRARY_NOT_FOUND = 12 };

typedef struct { int64_t time_ns; double watts, joules; } segment;

typedef struct {
    segment segments[SEGMENTS];
    int64_t count, period_ns, offset_ns;
    double base_joules; /* the counter's zero */
    int error, has_counter, generation;
    char name[64], uuid[64];
} gpu;

static gpu gpus[MAX_GPUS];
static int gpu_count, users, init_error = LIBRARY_NOT_FOUND, generation = 1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* The segment that holds an instant. */
static segment *at(gpu *g, int64_t time_ns) {
    int64_t i = g->count - 1, oldest = g->count > SEGMENTS ? g->count - SEGMENTS : 0;
    while (i > oldest && g->segments[i % SEGMENTS].time_ns > time_ns) i--;
    return &g->segments[i % SEGMENTS];
}

static double joules_at(gpu *g, int64_t time_ns) {
    segment *s = at(g, time_ns);
    return s->joules + s->watts * (time_ns - s->time_ns) / 1e9;
}

static int64_t refreshed(gpu *g) {
    int64_t now = now_ns();
    if (!g->period_ns) return now;
    return now - (now - g->offset_ns) % g->period_ns;
}

/* ------------------------------------------------------------------------------------------------ for the tests */

void sim_start(int count, int64_t period_ns, double watts) {
    pthread_mutex_lock(&mutex);
    gpu_count = count;
    users = 0;
    init_error = SUCCESS;
    for (int i = 0; i < count; i++) {
        gpu *g = &gpus[i];
        g->count = 1;
        g->segments[0] = (segment){now_ns(), watts, 1000.0 * (i + 1)};
        g->period_ns = period_ns;
        g->offset_ns = now_ns() - period_ns / 3;
        g->base_joules = g->error = 0;
        g->has_counter = 1;
        g->generation = generation;
        snprintf(g->name, sizeof g->name, "Simulated GPU");
        snprintf(g->uuid, sizeof g->uuid, "GPU-%08x-0000-0000-0000-000000000000", i);
    }
    pthread_mutex_unlock(&mutex);
}

void sim_end(void) { gpu_count = 0; init_error = LIBRARY_NOT_FOUND; }

void sim_set_power(int i, double watts) {
    pthread_mutex_lock(&mutex);
    int64_t now = now_ns();
    segment next = {now, watts, joules_at(&gpus[i], now)};
    gpus[i].segments[gpus[i].count % SEGMENTS] = next;
    gpus[i].count++;
    pthread_mutex_unlock(&mutex);
}

double sim_true_joules(int i) {
    pthread_mutex_lock(&mutex);
    double joules = joules_at(&gpus[i], now_ns());
    pthread_mutex_unlock(&mutex);
    return joules;
}

void sim_set_error(int i, int code) { gpus[i].error = code; }
void sim_set_init_error(int code) { init_error = code; }
void sim_set_counter(int i, int has_counter) { gpus[i].has_counter = has_counter; }
void sim_set_name(int i, const char *name) { snprintf(gpus[i].name, sizeof gpus[i].name, "%s", name); }
int sim_users(void) { return users; }

/* The counter starts anew, and handles of before are dead. */
void sim_reload(void) {
    pthread_mutex_lock(&mutex);
    generation++;
    users = 0;
    for (int i = 0; i < gpu_count; i++) gpus[i].base_joules = joules_at(&gpus[i], now_ns());
    pthread_mutex_unlock(&mutex);
}

/* ------------------------------------------------------------------------------------------------ NVML */

typedef struct { unsigned fieldId, scopeId; int64_t timestamp, latency; unsigned type; int result; union { double d; unsigned ui; unsigned long long ull; } value; } field;

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (init_error) return init_error;
    for (int i = 0; i < gpu_count; i++) gpus[i].generation = generation;
    users++;
    return SUCCESS;
}

int nvmlShutdown(void) {
    if (users <= 0) return UNINITIALIZED;
    users--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) { (void)code; return "Simulated error"; }

int nvmlDeviceGetCount_v2(unsigned *count) { *count = gpu_count; return users ? SUCCESS : UNINITIALIZED; }

int nvmlDeviceGetHandleByIndex_v2(unsigned i, gpu **handle) {
    if ((int)i >= gpu_count) return INVALID_ARGUMENT;
    *handle = &gpus[i];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, gpu **handle) {
    for (int i = 0; i < gpu_count; i++)
        if (!strcmp(gpus[i].uuid, uuid)) { *handle = &gpus[i]; return SUCCESS; }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(gpu *g, char *uuid, unsigned length) { snprintf(uuid, length, "%s", g->uuid); return SUCCESS; }
int nvmlDeviceGetName(gpu *g, char *name, unsigned length) { snprintf(name, length, "%s", g->name); return SUCCESS; }

static int usable(gpu *g) {
    if (!users || g->generation != generation) return UNINITIALIZED;
    return g->error;
}

int nvmlDeviceGetTotalEnergyConsumption(gpu *g, unsigned long long *millijoules) {
    int error = usable(g);
    if (error) return error;
    if (!g->has_counter) return NOT_SUPPORTED;
    pthread_mutex_lock(&mutex);
    *millijoules = (unsigned long long)fmax(0, floor(1000 * (joules_at(g, refreshed(g)) - g->base_joules)));
    pthread_mutex_unlock(&mutex);
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(gpu *g, unsigned *milliwatts) {
    int error = usable(g);
    if (error) return error;
    pthread_mutex_lock(&mutex);
    *milliwatts = (unsigned)(1000 * at(g, refreshed(g))->watts);
    pthread_mutex_unlock(&mutex);
    return SUCCESS;
}

int nvmlDeviceGetFieldValues(gpu *g, int count, field *fields) {
    int error = usable(g);
    if (error) return error;
    for (int i = 0; i < count; i++)
        fields[i].result = fields[i].fieldId == 186 ? nvmlDeviceGetPowerUsage(g, &fields[i].value.ui) : NOT_SUPPORTED;
    return SUCCESS;
}
