/* The least that a Cortex-M4 needs to run C: a vector table, the FPU, and data in place. For QEMU's mps2-an386. */
#include <stdint.h>
#include <string.h>

extern uint32_t stack_top, data_start, data_end, data_load, bss_start, bss_end;
extern int main(void);
extern void exit(int) __attribute__((noreturn));
extern void initialise_monitor_handles(void);

void reset_handler(void) {
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: the FPU is on */
    __asm volatile("dsb\n isb");
    memcpy(&data_start, &data_load, (size_t)((char *)&data_end - (char *)&data_start));
    memset(&bss_start, 0, (size_t)((char *)&bss_end - (char *)&bss_start));
    initialise_monitor_handles(); /* printf goes to the debugger */
    exit(main());
}

void _init(void) {}
void _fini(void) {}

static void fault(void) {
    exit(70);
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    &stack_top, (void *)reset_handler, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};
