/* Kiwicha without an operating system: set a program up, start it, wait for it, read how it ended.
 *
 * Registers are read and written with KIWICHA_READ and KIWICHA_WRITE; by default they are mapped at the address that
 * kiwicha_chip holds. A host that reaches them in another way, or whose addresses are not the chip's, puts its own
 * macros into a file and defines KIWICHA_IO as that file's name in quotes.
 */
#ifndef KIWICHA_DRIVER_H
#define KIWICHA_DRIVER_H

#include <stdint.h>

#include "kiwicha.h"

#ifdef KIWICHA_IO
#include KIWICHA_IO
#endif
#ifndef KIWICHA_READ
#define KIWICHA_READ(chip, offset) ((chip)->registers[(offset) / 4])
#define KIWICHA_WRITE(chip, offset, value) ((chip)->registers[(offset) / 4] = (value))
#endif
#ifndef KIWICHA_ADDRESS /* what the chip calls the place that `pointer` points to */
#define KIWICHA_ADDRESS(pointer) ((uint64_t)(uintptr_t)(pointer))
#endif
#ifndef KIWICHA_FLUSH /* make `size` bytes from `pointer` the same for processor and chip, before and after a run */
#define KIWICHA_FLUSH(pointer, size) ((void)0)
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    volatile uint32_t *registers;
} kiwicha_chip;

/* Where a program is, in bytes from the start of its memory, and how much memory that is; both as compiled. */
typedef struct {
    uint8_t *memory; /* whole pages of 4096 bytes, at a multiple of 4096 */
    uint64_t bytes;
    uint64_t program;
    uint32_t instructions;
} kiwicha_job;

typedef struct {
    uint32_t code;        /* KIWICHA_ERROR_... */
    uint32_t unit;        /* KIWICHA_UNIT_... */
    uint32_t instruction; /* its number in the program */
    uint64_t address;     /* what the reference says for the code */
} kiwicha_failure;

enum { KIWICHA_RUNNING = 1, KIWICHA_DONE = 0, KIWICHA_FAILED = -1 };

/* 0, or -1 if no Kiwicha answers there, or one of another version of the instruction set. */
int kiwicha_check(const kiwicha_chip *chip);

/* Programs are compiled for memory at address 0: adds where it really is to all addresses. Once per job. */
void kiwicha_relocate(kiwicha_job *job);

/* Starts the job, with an interrupt at its end, whichever. -1 if the chip still runs another one. */
int kiwicha_start(const kiwicha_chip *chip, const kiwicha_job *job);

/* KIWICHA_RUNNING, KIWICHA_DONE or KIWICHA_FAILED. */
int kiwicha_poll(const kiwicha_chip *chip);

/* Polls up to `limit` times, and says how it ended; KIWICHA_RUNNING if it has not. */
int kiwicha_wait(const kiwicha_chip *chip, uint64_t limit);

/* For the interrupt's handler: takes the interrupt back; not 0 if it was this chip's. */
uint32_t kiwicha_acknowledge(const kiwicha_chip *chip);

/* Ends the running program with an error; wait for it. */
void kiwicha_abort(const kiwicha_chip *chip);

/* Of a program that has failed. */
kiwicha_failure kiwicha_error(const kiwicha_chip *chip);

#ifdef __cplusplus
}
#endif

#endif
