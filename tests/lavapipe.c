/* Mesa's software Vulkan, lavapipe, under the name of Chromium's own, SwiftShader, so that WebGPU computes in it.
 *
 * Chromium takes no other software for WebGPU, and SwiftShader has no 16-bit floats, which lavapipe has. This library
 * lies in the place of libvk_swiftshader.so: it hands everything on to lavapipe (LAVAPIPE is its path) and changes the
 * vendor, device and name that the driver gives. Vulkan's headers are not needed: only the first fields are touched.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

typedef void (*function)(void);
typedef function (*lookup)(void *instance, const char *name);

struct properties {
    uint32_t api_version, driver_version, vendor, device, type;
    char name[256];
};
struct properties2 {
    uint32_t type;
    void *next;
    struct properties properties;
};

static lookup driver;
static void (*get_properties)(void *device, struct properties *);
static void (*get_properties2)(void *device, struct properties2 *);

static void rename_device(struct properties *properties) {
    properties->vendor = 0x1ae0;
    properties->device = 0xc0de;
    strcpy(properties->name, "SwiftShader Device");
}

static void properties(void *device, struct properties *result) {
    get_properties(device, result);
    rename_device(result);
}

static void properties2(void *device, struct properties2 *result) {
    get_properties2(device, result);
    rename_device(&result->properties);
}

static void open_driver(void) {
    void *library = dlopen(LAVAPIPE, RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    int (*negotiate)(uint32_t *) = (int (*)(uint32_t *))dlsym(library, "vk_icdNegotiateLoaderICDInterfaceVersion");
    uint32_t version = 5;
    if (negotiate) negotiate(&version);
    driver = (lookup)dlsym(library, "vk_icdGetInstanceProcAddr");
}

function vkGetInstanceProcAddr(void *instance, const char *name) {
    if (!driver) open_driver();
    function found = driver ? driver(instance, name) : 0;
    if (!found) return 0;
    if (!strcmp(name, "vkGetInstanceProcAddr")) return (function)vkGetInstanceProcAddr;
    if (!strcmp(name, "vkGetPhysicalDeviceProperties")) {
        get_properties = (void (*)(void *, struct properties *))found;
        return (function)properties;
    }
    if (!strcmp(name, "vkGetPhysicalDeviceProperties2") || !strcmp(name, "vkGetPhysicalDeviceProperties2KHR")) {
        get_properties2 = (void (*)(void *, struct properties2 *))found;
        return (function)properties2;
    }
    return found;
}
