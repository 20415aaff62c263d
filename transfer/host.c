#include "transfer/host.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static bool read_boot_id(uint8_t out[16])
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (!f)
        return false;
    char text[64] = "";
    bool ok = fgets(text, sizeof text, f) != NULL;
    (void)fclose(f);
    size_t n = 0;
    for (const char *p = text; ok && *p && n < 16;) {
        unsigned byte;
        if (*p == '-') {
            p++;
            continue;
        }
        if (sscanf(p, "%2x", &byte) != 1 || !p[1])
            return false;
        out[n++] = (uint8_t)byte;
        p += 2;
    }
    return n == 16;
}

status host_identity_read(struct host_identity *out, struct error *err)
{
    struct host_identity id = { 0 };
    struct stat ipc, net;
    if (!read_boot_id(id.boot))
        return error_set(err, ST_IO, "cannot read /proc/sys/kernel/random/boot_id");
    if (stat("/proc/self/ns/ipc", &ipc) || stat("/proc/self/ns/net", &net))
        return error_set(err, ST_IO, "cannot look at /proc/self/ns: %s", strerror(errno));
    id.ipc_space = ipc.st_ino;
    id.net_space = net.st_ino;
    *out = id;
    return ST_OK;
}

bool host_identity_equal(const struct host_identity *a, const struct host_identity *b)
{
    return !memcmp(a->boot, b->boot, sizeof a->boot) && a->ipc_space == b->ipc_space && a->net_space == b->net_space;
}

union ip {
    struct in_addr v4;
    struct in6_addr v6;
};

/* AF_INET, AF_INET6 or AF_UNSPEC. */
static int parse_ip(const char *text, union ip *out)
{
    if (inet_pton(AF_INET, text, &out->v4) == 1)
        return AF_INET;
    return inet_pton(AF_INET6, text, &out->v6) == 1 ? AF_INET6 : AF_UNSPEC;
}

static bool has_ip(const struct ifaddrs *i, int family, const union ip *ip)
{
    if (!i->ifa_addr || i->ifa_addr->sa_family != family)
        return false;
    if (family == AF_INET)
        return !memcmp(&((const struct sockaddr_in *)(const void *)i->ifa_addr)->sin_addr, &ip->v4, sizeof ip->v4);
    return !memcmp(&((const struct sockaddr_in6 *)(const void *)i->ifa_addr)->sin6_addr, &ip->v6, sizeof ip->v6);
}

status host_device_of(const char *address, char out[HOST_DEVICE_BYTES], struct error *err)
{
    union ip ip;
    int family = parse_ip(address, &ip);
    if (family == AF_UNSPEC)
        return error_set(err, ST_INVALID, "'%s' is not an IP address", address);
    struct ifaddrs *list;
    if (getifaddrs(&list))
        return error_set(err, ST_IO, "cannot list network devices: %s", strerror(errno));
    status st = ST_NOT_FOUND;
    for (const struct ifaddrs *i = list; i && st; i = i->ifa_next) {
        if (!has_ip(i, family, &ip) || strlen(i->ifa_name) >= HOST_DEVICE_BYTES)
            continue;
        (void)snprintf(out, HOST_DEVICE_BYTES, "%s", i->ifa_name);
        st = ST_OK;
    }
    freeifaddrs(list);
    return st ? error_set(err, st, "no network device of this host has the address %s", address) : ST_OK;
}

bool host_is_loopback(const char *address)
{
    union ip ip;
    if (!address || !*address)
        return true;
    switch (parse_ip(address, &ip)) {
    case AF_INET:
        return ntohl(ip.v4.s_addr) >> 24 == 127;
    case AF_INET6:
        return IN6_IS_ADDR_LOOPBACK(&ip.v6);
    default:
        return false;
    }
}
