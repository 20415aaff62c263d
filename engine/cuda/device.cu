#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

/* The headers are C's. */
#define _Noreturn [[noreturn]]
extern "C" {
#include "common/clock.h"
#include "engine/cuda/device.h"
}

namespace
{

constexpr uint64_t spin_ns = 50000; /* a wait looks without sleeping for so long: most are shorter */
constexpr long sleep_ns = 20000;    /* between two looks afterwards */
constexpr size_t name_bytes = 320;

struct cuda_device {
    struct device base;
    int index;
    char name[name_bytes];
};

struct cuda_stream {
    struct device_stream base;
    cudaStream_t handle;
    status failed; /* of what was queued: the first, which everything later gets, too */
    struct error error;
};

struct cuda_event {
    struct device_event base;
    cudaEvent_t handle;
};

cuda_device *of(struct device *d)
{
    return reinterpret_cast<cuda_device *>(d);
}

cuda_stream *of(struct device_stream *s)
{
    return reinterpret_cast<cuda_stream *>(s);
}

cuda_event *of(struct device_event *e)
{
    return reinterpret_cast<cuda_event *>(e);
}

void *pointer(uint64_t address)
{
    return reinterpret_cast<void *>(static_cast<uintptr_t>(address));
}

/* What the person who reads it should do. */
const char *advice(cudaError_t error)
{
    switch (error) {
    case cudaErrorECCUncorrectable:
        return "memory of the device is bad: end this process; if it comes back, reset or replace the device "
               "(XID 48, 63, 64 or 94 in dmesg)";
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorIllegalInstruction:
    case cudaErrorAssert:
        return "a kernel did what it must not, and nothing works in this process any more: end it "
               "(XID 13 or 31 in dmesg), and report it with compute-sanitizer's output";
    case cudaErrorLaunchFailure:
    case cudaErrorHardwareStackError:
    case cudaErrorContained:
        return "nothing works on the device in this process any more: end it, and look for its XID in dmesg";
    case cudaErrorLaunchTimeout:
        return "the device drives a display, whose watchdog ended the kernel: use another one";
    case cudaErrorDevicesUnavailable:
        return "another process has it for itself (nvidia-smi -q -d COMPUTE)";
    case cudaErrorSystemNotReady:
        return "the fabric manager is not running: start nvidia-fabricmanager";
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
        return "there is no driver, or one older than the runtime wants: install or update it";
    default:
        return "nvidia-smi and dmesg may say more";
    }
}

status status_of(cudaError_t error)
{
    switch (error) {
    case cudaErrorMemoryAllocation:
        return ST_NO_MEMORY;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
        return ST_NOT_FOUND;
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
        return ST_UNSUPPORTED;
    default:
        return ST_IO;
    }
}

/* ST_OK for success. Takes the error from the thread's state, where the runtime leaves those that do not last. */
status report(const struct device *d, const char *doing, cudaError_t error, struct error *err)
{
    if (error == cudaSuccess)
        return ST_OK;
    (void)cudaGetLastError();
    return error_set(err, status_of(error), "%s: %s: %s (%s); %s", d->name, doing, cudaGetErrorString(error),
                     cudaGetErrorName(error), advice(error));
}

/* Calls of the runtime are about the device that the thread last named. */
status select(struct device *d, struct error *err)
{
    return report(d, "selecting it", cudaSetDevice(of(d)->index), err);
}

/* Likewise, and what fails stays with the stream. */
status queue(cuda_stream *s, const char *doing, cudaError_t error, struct error *err)
{
    if (s->failed == ST_OK)
        s->failed = report(s->base.device, doing, error, &s->error);
    return s->failed == ST_OK ? ST_OK : error_set(err, s->failed, "%s", s->error.text);
}

bool is_lost(cuda_stream *s, struct error *err)
{
    return queue(s, "selecting the device", s->failed == ST_OK ? cudaSetDevice(of(s->base.device)->index) : cudaSuccess,
                 err) != ST_OK;
}

/* Asks until it is not "not ready" any more, or the deadline. */
template <typename look> cudaError_t poll(look is_ready, uint64_t deadline_ns)
{
    const uint64_t begin = clock_now_ns();
    for (;;) {
        const cudaError_t error = is_ready();
        const uint64_t now = clock_now_ns();
        if (error != cudaErrorNotReady || now >= deadline_ns)
            return error;
        const struct timespec pause = { 0, sleep_ns };
        if (now - begin > spin_ns)
            nanosleep(&pause, nullptr);
    }
}

status allocate(struct device *d, enum device_place place, size_t bytes, struct device_memory *out, struct error *err)
{
    void *host = nullptr;
    void *own = nullptr;
    if (status st = select(d, err))
        return st;
    if (place == DEVICE_LOCAL) {
        const cudaError_t error = cudaMalloc(&own, bytes);
        size_t left = 0, all = 0;
        if (error == cudaErrorMemoryAllocation && cudaMemGetInfo(&left, &all) == cudaSuccess) {
            (void)cudaGetLastError();
            return error_set(err, ST_NO_MEMORY,
                             "%s: %zu bytes are asked for, %zu of its %zu are free: lower kv_memory, take a smaller "
                             "model, or end what else uses it (nvidia-smi)",
                             d->name, bytes, left, all);
        }
        if (status st = report(d, "allocating memory", error, err))
            return st;
    } else {
        if (status st = report(d, "allocating pinned memory of the host",
                               cudaHostAlloc(&host, bytes, cudaHostAllocPortable | cudaHostAllocMapped), err))
            return st;
        if (status st = report(d, "mapping pinned memory", cudaHostGetDevicePointer(&own, host, 0), err)) {
            (void)cudaFreeHost(host);
            return st;
        }
    }
    out->host = static_cast<uint8_t *>(host);
    out->device = reinterpret_cast<uintptr_t>(own);
    return ST_OK;
}

void release(struct device *d, struct device_memory *memory)
{
    (void)cudaSetDevice(of(d)->index);
    (void)(memory->host ? cudaFreeHost(memory->host) : cudaFree(pointer(memory->device)));
    (void)cudaGetLastError(); /* of a lost device: its memory went with it */
    *memory = {};
}

status copy_in(struct device_stream *s, uint64_t to, const void *from, size_t bytes, struct error *err)
{
    if (is_lost(of(s), err))
        return of(s)->failed;
    return queue(of(s), "copying to it",
                 cudaMemcpyAsync(pointer(to), from, bytes, cudaMemcpyHostToDevice, of(s)->handle), err);
}

status copy_out(struct device_stream *s, void *to, uint64_t from, size_t bytes, struct error *err)
{
    if (is_lost(of(s), err))
        return of(s)->failed;
    return queue(of(s), "copying from it",
                 cudaMemcpyAsync(to, pointer(from), bytes, cudaMemcpyDeviceToHost, of(s)->handle), err);
}

status copy_within(struct device_stream *s, uint64_t to, uint64_t from, size_t bytes, struct error *err)
{
    if (is_lost(of(s), err))
        return of(s)->failed;
    return queue(of(s), "copying within it",
                 cudaMemcpyAsync(pointer(to), pointer(from), bytes, cudaMemcpyDeviceToDevice, of(s)->handle), err);
}

status stream_create(struct device *d, struct device_stream **out, struct error *err)
{
    if (status st = select(d, err))
        return st;
    cuda_stream *s = static_cast<cuda_stream *>(calloc(1, sizeof *s));
    if (!s)
        return error_set(err, ST_NO_MEMORY, "out of memory for a stream");
    s->base.device = d;
    if (status st = report(d, "making a stream", cudaStreamCreateWithFlags(&s->handle, cudaStreamNonBlocking), err)) {
        free(s);
        return st;
    }
    *out = &s->base;
    return ST_OK;
}

void stream_destroy(struct device_stream **stream)
{
    if (!*stream)
        return;
    (void)cudaSetDevice(of((*stream)->device)->index);
    (void)cudaStreamDestroy(of(*stream)->handle);
    (void)cudaGetLastError();
    free(of(*stream));
    *stream = nullptr;
}

thread_local cuda_stream *entered;

void stream_enter(struct device_stream *s)
{
    entered = of(s);
    (void)is_lost(entered, nullptr);
}

status stream_synchronise(struct device_stream *s, uint64_t deadline_ns, struct error *err)
{
    if (is_lost(of(s), err))
        return of(s)->failed;
    const cudaError_t error = poll([s] { return cudaStreamQuery(of(s)->handle); }, deadline_ns);
    if (error == cudaErrorNotReady)
        return error_set(err, ST_TIMEOUT,
                         "%s: the deadline passed before what was queued was done: the device is overloaded or hangs "
                         "(nvidia-smi, dmesg)",
                         s->device->name);
    return queue(of(s), "what was queued", error, err);
}

status event_create(struct device *d, struct device_event **out, struct error *err)
{
    if (status st = select(d, err))
        return st;
    cuda_event *e = static_cast<cuda_event *>(calloc(1, sizeof *e));
    if (!e)
        return error_set(err, ST_NO_MEMORY, "out of memory for an event");
    e->base.device = d;
    if (status st = report(d, "making an event", cudaEventCreateWithFlags(&e->handle, cudaEventDisableTiming), err)) {
        free(e);
        return st;
    }
    *out = &e->base;
    return ST_OK;
}

void event_destroy(struct device_event **event)
{
    if (!*event)
        return;
    (void)cudaSetDevice(of((*event)->device)->index);
    (void)cudaEventDestroy(of(*event)->handle);
    (void)cudaGetLastError();
    free(of(*event));
    *event = nullptr;
}

status event_record(struct device_event *e, struct device_stream *s, struct error *err)
{
    if (is_lost(of(s), err))
        return of(s)->failed;
    return queue(of(s), "recording an event", cudaEventRecord(of(e)->handle, of(s)->handle), err);
}

status event_order(struct device_event *e, struct device_stream *s, struct error *err)
{
    if (is_lost(of(s), err))
        return of(s)->failed;
    return queue(of(s), "waiting for an event in a stream", cudaStreamWaitEvent(of(s)->handle, of(e)->handle, 0), err);
}

status event_query(struct device_event *e, struct error *err)
{
    if (status st = select(e->device, err))
        return st;
    const cudaError_t error = cudaEventQuery(of(e)->handle);
    return error == cudaErrorNotReady ? ST_AGAIN : report(e->device, "what an event stands for", error, err);
}

status event_wait(struct device_event *e, uint64_t deadline_ns, struct error *err)
{
    if (status st = select(e->device, err))
        return st;
    const cudaError_t error = poll([e] { return cudaEventQuery(of(e)->handle); }, deadline_ns);
    if (error == cudaErrorNotReady)
        return error_set(err, ST_TIMEOUT,
                         "%s: the deadline passed before an event: the device is overloaded or hangs (nvidia-smi, "
                         "dmesg)",
                         e->device->name);
    return report(e->device, "what an event stands for", error, err);
}

const struct device_ops ops = {
    .allocate = allocate,
    .release = release,
    .copy_in = copy_in,
    .copy_out = copy_out,
    .copy = copy_within,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_enter = stream_enter,
    .stream_synchronise = stream_synchronise,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_order = event_order,
    .event_query = event_query,
    .event_wait = event_wait,
};

} /* namespace */

extern "C" status cuda_device_open(uint32_t index, struct device **out, struct error *err)
{
    cuda_device *d = static_cast<cuda_device *>(calloc(1, sizeof *d));
    if (!d)
        return error_set(err, ST_NO_MEMORY, "out of memory for a device");
    cudaDeviceProp properties;
    d->base.ops = &ops;
    d->base.name = d->name;
    d->index = static_cast<int>(index);
    snprintf(d->name, sizeof d->name, "cuda:%u", index);
    status st = report(&d->base, "looking for it", cudaGetDeviceProperties(&properties, d->index), err);
    if (st == ST_OK)
        st = select(&d->base, err);
    if (st != ST_OK) {
        free(d);
        return st;
    }
    snprintf(d->name, sizeof d->name, "cuda:%u %s", index, properties.name);
    *out = &d->base;
    return ST_OK;
}

extern "C" void cuda_device_close(struct device **device)
{
    if (!*device)
        return;
    free(of(*device));
    *device = nullptr;
}
