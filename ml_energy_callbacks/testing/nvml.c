/* A simulated NVIDIA driver library that nvidia-ml-py loads as libnvidia-ml.so.1.

   Each GPU draws the power that the test sets, or that of a curve which the test provides. Its energy counter shows the
   true integral, as of the last instant of a refresh grid. The functions that begin with sim_ are for the test; the others
   are NVML's. If ML_ENERGY_SIMULATED_GPUS="2:90" (count:watts) is set, the library starts by itself. */

#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_GPUS = 64, MAX_SLICES = 8, SEGMENTS = 1 << 14, SAMPLES = 256 };
enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, LIBRARY_NOT_FOUND = 12
};
enum { ENERGY = 83, AVERAGE_POWER = 185, INSTANT_POWER = 186 };
enum { SCOPE_GPU = 0, SCOPE_MODULE = 1 };
enum { TYPE_UNSIGNED_INT = 1, TYPE_UNSIGNED_LONG_LONG = 3 };

static const int64_t SECOND = INT64_C(1000000000);

typedef int64_t clock_function(void);
typedef double curve_function(int64_t time_ns);
typedef struct { int64_t time_ns; double watts, joules; } segment;
typedef struct { int64_t from_ns, to_ns; } window;
typedef struct { curve_function *watts, *joules; } curve;
typedef struct { unsigned pid; unsigned long long time_us; unsigned sm, memory, encoder, decoder; } sample;

typedef struct device {
    struct device *parent; /* of a MIG slice; NULL for a GPU */
    int index;
    char name[96], uuid[96];
    curve drawn;  /* without functions: the segments */
    curve rest;   /* the rest of a superchip's module; without functions there is none */
    int rest_counted, has_counter, has_instant_power, mig_mode, slice_count, error;
    unsigned bus;
    int64_t segment_count, sample_count, period_ns, offset_ns, jitter_ns, latency_ns;
    window error_window, latency_window;
    double counter_joules, counter_origin, counter_rate; /* value: counter_joules + rate * (joules - counter_origin) */
    double limit_watts;
} device;

static device gpus[MAX_GPUS], slices[MAX_GPUS][MAX_SLICES];
static segment segments[MAX_GPUS][SEGMENTS];
static sample samples[MAX_GPUS][SAMPLES];
static int gpu_count, users, init_error = LIBRARY_NOT_FOUND;
static int loaded = 1, attached; /* number of loads of the driver; the load to which the library is attached */
static clock_function *test_clock;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* ------------------------------------------------------------------------------------------------ the simulation */

static int64_t now_ns(void) {
    if (test_clock) return test_clock();
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

/* The segment at an instant. */
static segment segment_at(const device *g, int64_t time_ns) {
    pthread_mutex_lock(&mutex);
    int64_t i = g->segment_count - 1, oldest = g->segment_count > SEGMENTS ? g->segment_count - SEGMENTS : 0;
    while (i > oldest && segments[g->index][i % SEGMENTS].time_ns > time_ns) i--;
    segment found = segments[g->index][i % SEGMENTS];
    pthread_mutex_unlock(&mutex);
    return found;
}

static double watts_at(const device *g, int64_t time_ns) {
    return g->drawn.watts ? g->drawn.watts(time_ns) : segment_at(g, time_ns).watts;
}

static double joules_at(const device *g, int64_t time_ns) {
    if (g->drawn.joules) return g->drawn.joules(time_ns);
    segment s = segment_at(g, time_ns);
    return s.joules + s.watts * (double)(time_ns - s.time_ns) / 1e9;
}

/* Energy of what the energy counter covers. */
static double counted_joules_at(const device *g, int64_t time_ns) {
    return joules_at(g, time_ns) + (g->rest_counted && g->rest.joules ? g->rest.joules(time_ns) : 0);
}

static double counter_at(const device *g, int64_t time_ns) {
    return g->counter_joules + g->counter_rate * (counted_joules_at(g, time_ns) - g->counter_origin);
}

/* The k-th instant of the refresh grid, early or late by up to half the jitter. */
static int64_t refresh(const device *g, int64_t k) {
    uint64_t hash = (uint64_t)k * UINT64_C(0x9E3779B97F4A7C15);
    hash = (hash ^ (hash >> 31)) * UINT64_C(0xBF58476D1CE4E5B9);
    double random = (double)(hash >> 11) / (double)(UINT64_C(1) << 53) - 0.5;
    return g->offset_ns + k * g->period_ns + (int64_t)(random * (double)g->jitter_ns);
}

static int64_t refreshed(const device *g) {
    int64_t now = now_ns();
    if (!g->period_ns) return now;
    int64_t k = (now - g->offset_ns) / g->period_ns + 1;
    while (refresh(g, k) > now) k--;
    return refresh(g, k);
}

static int within(window w, int64_t now) { return w.from_ns <= now && now < w.to_ns; }

/* ------------------------------------------------------------------------------------------------ for the tests */

void sim_start(int count, int64_t period_ns, double watts, clock_function *clock) {
    test_clock = clock;
    int64_t now = now_ns();
    pthread_mutex_lock(&mutex);
    gpu_count = count;
    users = 0;
    init_error = SUCCESS;
    for (int i = 0; i < count; i++) {
        device *g = &gpus[i];
        *g = (device){
            .index = i, .has_counter = 1, .has_instant_power = 1, .mig_mode = -1, .bus = i + 1,
            .segment_count = 1, .period_ns = period_ns, .offset_ns = now - period_ns / 3,
            .counter_joules = 1000.0 * (i + 1), .counter_rate = 1, .limit_watts = 700,
        };
        segments[i][0] = (segment){now, watts, 0};
        snprintf(g->name, sizeof g->name, "Simulated GPU");
        snprintf(g->uuid, sizeof g->uuid, "GPU-%08x-0000-0000-0000-000000000000", i);
    }
    pthread_mutex_unlock(&mutex);
}

void sim_end(void) {
    gpu_count = 0;
    init_error = LIBRARY_NOT_FOUND;
}

__attribute__((constructor)) static void start_by_environment(void) {
    const char *text = getenv("ML_ENERGY_SIMULATED_GPUS");
    int count;
    double watts;
    if (text && sscanf(text, "%d:%lf", &count, &watts) == 2 && 0 < count && count <= MAX_GPUS)
        sim_start(count, SECOND / 10, watts, NULL);
}

void sim_set_power(int i, double watts) {
    int64_t now = now_ns();
    segment next = {now, watts, joules_at(&gpus[i], now)};
    pthread_mutex_lock(&mutex);
    segments[i][gpus[i].segment_count % SEGMENTS] = next;
    gpus[i].segment_count++;
    pthread_mutex_unlock(&mutex);
}

double sim_true_joules(int i) { return joules_at(&gpus[i], now_ns()); }

void sim_set_curve(int i, curve_function *watts, curve_function *joules) {
    gpus[i].drawn = (curve){watts, joules};
    gpus[i].counter_origin = counted_joules_at(&gpus[i], now_ns());
}

void sim_set_module(int i, curve_function *watts, curve_function *joules, int counted) {
    gpus[i].rest = (curve){watts, joules};
    gpus[i].rest_counted = counted;
    gpus[i].counter_origin = counted_joules_at(&gpus[i], now_ns());
}

void sim_set_refresh(int i, int64_t period_ns, int64_t offset_ns, int64_t jitter_ns) {
    gpus[i].period_ns = period_ns;
    gpus[i].offset_ns = offset_ns;
    gpus[i].jitter_ns = jitter_ns;
}

/* From now on, the counter runs at rate times the true power. */
void sim_set_counter_rate(int i, double rate) {
    device *g = &gpus[i];
    int64_t then = refreshed(g);
    g->counter_joules = counter_at(g, then);
    g->counter_origin = counted_joules_at(g, then);
    g->counter_rate = rate;
}

void sim_jump(int i, double joules) { gpus[i].counter_joules += joules; }

void sim_set_error(int i, int code, int64_t from_ns, int64_t to_ns) {
    gpus[i].error_window = (window){from_ns, to_ns};
    gpus[i].error = code;
}

void sim_set_latency(int i, int64_t latency_ns, int64_t from_ns, int64_t to_ns) {
    gpus[i].latency_window = (window){from_ns, to_ns};
    gpus[i].latency_ns = latency_ns;
}

void sim_set_init_error(int code) { init_error = code; }
void sim_set_counter(int i, int present) { gpus[i].has_counter = present; }
void sim_set_instant_power(int i, int present) { gpus[i].has_instant_power = present; }
void sim_set_limit(int i, double watts) { gpus[i].limit_watts = watts; }
void sim_set_bus(int i, unsigned bus) { gpus[i].bus = bus; }
void sim_set_name(int i, const char *name) { snprintf(gpus[i].name, sizeof gpus[i].name, "%s", name); }
void sim_set_uuid(int i, const char *uuid) { snprintf(gpus[i].uuid, sizeof gpus[i].uuid, "%s", uuid); }
int64_t sim_now(void) { return now_ns(); }
int sim_users(void) { return users; }

void sim_set_mig_mode(int i, int mode) {
    gpus[i].mig_mode = mode;
    gpus[i].slice_count = 0;
}

void sim_add_slice(int i, const char *uuid) {
    device *slice = &slices[i][gpus[i].slice_count++];
    *slice = (device){.parent = &gpus[i]};
    snprintf(slice->uuid, sizeof slice->uuid, "%s", uuid);
}

void sim_add_sample(int i, unsigned pid, unsigned sm) {
    samples[i][gpus[i].sample_count++ % SAMPLES] = (sample){.pid = pid, .time_us = (uint64_t)now_ns() / 1000, .sm = sm};
}

/* The counters are reset, and nothing works before every user has shut the library down. */
void sim_reload(void) {
    loaded++;
    for (int i = 0; i < gpu_count; i++) {
        gpus[i].counter_joules = 0;
        gpus[i].counter_origin = counted_joules_at(&gpus[i], now_ns());
    }
}

/* ------------------------------------------------------------------------------------------------ NVML */

typedef struct {
    unsigned field, scope;
    int64_t timestamp, latency;
    unsigned type;
    int result;
    union { double d; unsigned ui; unsigned long long ull; } value;
} field_value;

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} pci_info;

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (init_error) return init_error;
    if (!users) attached = loaded;
    users++;
    return SUCCESS;
}

int nvmlShutdown(void) {
    if (users <= 0) return UNINITIALIZED;
    users--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) {
    (void)code;
    return "Simulated error";
}

static int initialized(void) { return users && attached == loaded; }

/* Whether the GPU is reachable. A GPU that supports nothing is; a lost one, or one of another user, is not. */
static int reachable(const device *d) {
    const device *g = d->parent ? d->parent : d;
    if (!initialized()) return UNINITIALIZED;
    return g->error != NOT_SUPPORTED && within(g->error_window, now_ns()) ? g->error : SUCCESS;
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    snprintf(version, length, "simulated");
    return initialized() ? SUCCESS : UNINITIALIZED;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = (unsigned)gpu_count;
    return initialized() ? SUCCESS : UNINITIALIZED;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned i, device **handle) {
    if ((int)i >= gpu_count) return INVALID_ARGUMENT;
    *handle = &gpus[i];
    return reachable(*handle);
}

/* As in nvml.h, it skips GPUs without permission, and fails if a GPU before the one it looks for is lost. */
int nvmlDeviceGetHandleByUUID(const char *uuid, device **handle) {
    if (!initialized()) return UNINITIALIZED;
    for (int i = 0; i < gpu_count; i++) {
        int error = reachable(&gpus[i]);
        if (error == NO_PERMISSION) continue;
        if (error) return error;
        if (!strcmp(gpus[i].uuid, uuid)) {
            *handle = &gpus[i];
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(device *d, char *uuid, unsigned length) {
    snprintf(uuid, length, "%s", d->uuid);
    return reachable(d);
}

int nvmlDeviceGetName(device *d, char *name, unsigned length) {
    snprintf(name, length, "%s", d->parent ? d->parent->name : d->name);
    return reachable(d);
}

int nvmlDeviceGetPciInfo_v3(device *g, pci_info *info) {
    *info = (pci_info){.bus = g->bus};
    snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "0000:%02X:00.0", g->bus & 0xFF);
    snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", g->bus & 0xFF);
    return reachable(g);
}

/* Called by every query that may fail; also applies the latency. */
static int usable(device *d) {
    if (d->parent) return NOT_SUPPORTED;
    if (!initialized()) return UNINITIALIZED;
    int64_t now = now_ns();
    if (d->latency_ns && within(d->latency_window, now)) {
        struct timespec t = {d->latency_ns / SECOND, d->latency_ns % SECOND};
        nanosleep(&t, NULL);
    }
    return d->error && within(d->error_window, now) ? d->error : SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(device *d, unsigned long long *millijoules) {
    int error = usable(d);
    if (error) return error;
    if (!d->has_counter) return NOT_SUPPORTED;
    *millijoules = (unsigned long long)fmax(0, floor(1000 * counter_at(d, refreshed(d))));
    return SUCCESS;
}

static unsigned average_milliwatts(const device *g, int scope) {
    int64_t then = refreshed(g);
    double joules = joules_at(g, then) - joules_at(g, then - SECOND);
    if (scope == SCOPE_MODULE) joules += g->rest.joules(then) - g->rest.joules(then - SECOND);
    return (unsigned)(1000 * joules);
}

static unsigned instant_milliwatts(const device *g, int scope) {
    int64_t then = refreshed(g);
    return (unsigned)(1000 * (watts_at(g, then) + (scope == SCOPE_MODULE ? g->rest.watts(then) : 0)));
}

/* On Ampere and newer, except GA100, an average over 1 s. */
int nvmlDeviceGetPowerUsage(device *d, unsigned *milliwatts) {
    int error = usable(d);
    if (error) return error;
    *milliwatts = average_milliwatts(d, SCOPE_GPU);
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimitConstraints(device *d, unsigned *least, unsigned *most) {
    int error = usable(d);
    if (error) return error;
    *least = 0;
    *most = (unsigned)(1000 * d->limit_watts);
    return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(device *d, unsigned *milliwatts) {
    int error = usable(d);
    if (error) return error;
    *milliwatts = (unsigned)(1000 * d->limit_watts);
    return SUCCESS;
}

static void fill(device *g, field_value *f) {
    int known = f->scope == SCOPE_GPU || (f->scope == SCOPE_MODULE && g->rest.watts);
    f->result = SUCCESS;
    f->type = TYPE_UNSIGNED_INT;
    if (f->field == INSTANT_POWER && known && g->has_instant_power) {
        f->value.ui = instant_milliwatts(g, (int)f->scope);
    } else if (f->field == AVERAGE_POWER && known) {
        f->value.ui = average_milliwatts(g, (int)f->scope);
    } else if (f->field == ENERGY && g->has_counter) {
        f->type = TYPE_UNSIGNED_LONG_LONG;
        f->value.ull = (unsigned long long)fmax(0, floor(1000 * counter_at(g, refreshed(g))));
    } else {
        f->result = NOT_SUPPORTED;
    }
}

int nvmlDeviceGetFieldValues(device *d, int count, field_value *fields) {
    int error = usable(d);
    if (error) return error;
    for (int i = 0; i < count; i++) fill(d, &fields[i]);
    return SUCCESS;
}

int nvmlDeviceGetProcessUtilization(device *d, sample *found, unsigned *count, unsigned long long last_seen_us) {
    int error = usable(d);
    if (error) return error;
    if (d->mig_mode > 0) return NOT_SUPPORTED;
    unsigned room = found ? *count : 0, n = 0;
    for (int64_t i = d->sample_count > SAMPLES ? d->sample_count - SAMPLES : 0; i < d->sample_count; i++) {
        sample s = samples[d->index][i % SAMPLES];
        if (s.time_us <= last_seen_us) continue;
        if (n < room) found[n] = s;
        n++;
    }
    *count = n;
    return !n ? NOT_FOUND : n > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetMigMode(device *d, unsigned *current, unsigned *pending) {
    if (d->parent || d->mig_mode < 0) return NOT_SUPPORTED;
    *current = *pending = (unsigned)d->mig_mode;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(device *d, unsigned *count) {
    *count = d->mig_mode < 0 ? 0 : MAX_SLICES;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(device *d, unsigned i, device **slice) {
    if ((int)i >= d->slice_count) return NOT_FOUND;
    *slice = &slices[d->index][i];
    return SUCCESS;
}

int nvmlDeviceIsMigDeviceHandle(device *d, unsigned *is_slice) {
    *is_slice = d->parent != NULL;
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device *d, device **parent) {
    if (!d->parent) return INVALID_ARGUMENT;
    *parent = d->parent;
    return SUCCESS;
}
