/* See kiwicha_driver.h. C99. */
#include "kiwicha_driver.h"

static uint64_t pair(const kiwicha_chip *chip, uint32_t low, uint32_t high)
{
    uint64_t value = KIWICHA_READ(chip, low);
    return value | (uint64_t)KIWICHA_READ(chip, high) << 32;
}

static void put_pair(const kiwicha_chip *chip, uint32_t low, uint32_t high, uint64_t value)
{
    KIWICHA_WRITE(chip, low, (uint32_t)value);
    KIWICHA_WRITE(chip, high, (uint32_t)(value >> 32));
}

int kiwicha_check(const kiwicha_chip *chip)
{
    if (KIWICHA_READ(chip, KIWICHA_REG_ID) != KIWICHA_ID_VALUE)
        return -1;
    return KIWICHA_READ(chip, KIWICHA_REG_VERSION) >> 16 == KIWICHA_VERSION_VALUE >> 16 ? 0 : -1;
}

void kiwicha_relocate(kiwicha_job *job)
{
    uint8_t *instruction = job->memory + job->program;
    uint32_t left;
    for (left = job->instructions; left; left--, instruction += KIWICHA_INSTRUCTION_BYTES) {
        /* Addresses are whole bytes of the instruction, the lowest first. */
        unsigned first, width, i;
        uint64_t address = 0;
        if (instruction[0] == KIWICHA_UNIT_LOAD) {
            first = KIWICHA_LOAD_ADDRESS_OFFSET / 8, width = KIWICHA_LOAD_ADDRESS_WIDTH;
        } else if (instruction[0] == KIWICHA_UNIT_STORE) {
            first = KIWICHA_STORE_ADDRESS_OFFSET / 8, width = KIWICHA_STORE_ADDRESS_WIDTH;
        } else {
            continue;
        }
        for (i = 0; i < width / 8; i++)
            address |= (uint64_t)instruction[first + i] << 8 * i;
        kiwicha_set(instruction, 8 * first, width, address + KIWICHA_ADDRESS(job->memory));
    }
}

int kiwicha_start(const kiwicha_chip *chip, const kiwicha_job *job)
{
    const uint32_t both = KIWICHA_REG_IRQ_ENABLE_DONE_MASK | KIWICHA_REG_IRQ_ENABLE_ERROR_MASK;
    const uint64_t base = KIWICHA_ADDRESS(job->memory);
    const uint32_t status = KIWICHA_READ(chip, KIWICHA_REG_STATUS);
    if (status & KIWICHA_REG_STATUS_BUSY_MASK)
        return -1;
    KIWICHA_FLUSH(job->memory, job->bytes);
    put_pair(chip, KIWICHA_REG_PROGRAM_LOW, KIWICHA_REG_PROGRAM_HIGH, base + job->program);
    KIWICHA_WRITE(chip, KIWICHA_REG_PROGRAM_COUNT, job->instructions);
    if (!(status & KIWICHA_REG_STATUS_LOCKED_MASK)) {
        put_pair(chip, KIWICHA_REG_WINDOW_FIRST_LOW, KIWICHA_REG_WINDOW_FIRST_HIGH, base);
        put_pair(chip, KIWICHA_REG_WINDOW_LAST_LOW, KIWICHA_REG_WINDOW_LAST_HIGH, base + job->bytes - 1);
    }
    KIWICHA_WRITE(chip, KIWICHA_REG_IRQ_ENABLE, both);
    KIWICHA_WRITE(chip, KIWICHA_REG_IRQ_PENDING, both);
    KIWICHA_WRITE(chip, KIWICHA_REG_CONTROL, KIWICHA_REG_CONTROL_START_MASK);
    return 0;
}

int kiwicha_poll(const kiwicha_chip *chip)
{
    const uint32_t status = KIWICHA_READ(chip, KIWICHA_REG_STATUS);
    if (status & KIWICHA_REG_STATUS_BUSY_MASK)
        return KIWICHA_RUNNING;
    return status & KIWICHA_REG_STATUS_DONE_MASK ? KIWICHA_DONE : KIWICHA_FAILED;
}

int kiwicha_wait(const kiwicha_chip *chip, uint64_t limit)
{
    int state = kiwicha_poll(chip);
    while (state == KIWICHA_RUNNING && limit--)
        state = kiwicha_poll(chip);
    return state;
}

uint32_t kiwicha_acknowledge(const kiwicha_chip *chip)
{
    const uint32_t pending = KIWICHA_READ(chip, KIWICHA_REG_IRQ_PENDING);
    KIWICHA_WRITE(chip, KIWICHA_REG_IRQ_PENDING, pending);
    return pending;
}

void kiwicha_abort(const kiwicha_chip *chip)
{
    KIWICHA_WRITE(chip, KIWICHA_REG_CONTROL, KIWICHA_REG_CONTROL_ABORT_MASK);
}

kiwicha_failure kiwicha_error(const kiwicha_chip *chip)
{
    const uint32_t value = KIWICHA_READ(chip, KIWICHA_REG_ERROR);
    kiwicha_failure found;
    found.code = (value & KIWICHA_REG_ERROR_CODE_MASK) >> KIWICHA_REG_ERROR_CODE_BIT;
    found.unit = (value & KIWICHA_REG_ERROR_UNIT_MASK) >> KIWICHA_REG_ERROR_UNIT_BIT;
    found.instruction = KIWICHA_READ(chip, KIWICHA_REG_ERROR_INSTRUCTION);
    found.address = pair(chip, KIWICHA_REG_ERROR_ADDRESS_LOW, KIWICHA_REG_ERROR_ADDRESS_HIGH);
    return found;
}
