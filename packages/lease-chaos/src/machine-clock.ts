/**
 * The machine's monotonic clock, in a process whose own clocks a shim moves. The shim's file says by how much, so the true time can be
 * computed from the moved one.
 */
import { openSync, readSync } from 'node:fs'

/** The environment variable that names the shim's file. */
export const CLOCK_VARIABLE = 'LEASE_CHAOS_CLOCK'

/** What the shim does, in the order and the types of its file: `shims/faults.c`. Nanoseconds. */
export interface ShimControl {
  readonly seq: bigint
  readonly wallNs: bigint
  /** True monotonic time at which `rate` began, and what had been added to both clocks by then. */
  readonly sinceNs: bigint
  readonly driftNs: bigint
  /** Added to both clocks since then, for each nanosecond. */
  readonly rate: number
  readonly fsyncNs: bigint
}

export const CONTROL_BYTES = 48

export function encodeControl({ seq, wallNs, sinceNs, driftNs, rate, fsyncNs }: ShimControl): Buffer {
  const bytes = Buffer.alloc(CONTROL_BYTES)
  bytes.writeBigUInt64LE(seq, 0)
  bytes.writeBigInt64LE(wallNs, 8)
  bytes.writeBigInt64LE(sinceNs, 16)
  bytes.writeBigInt64LE(driftNs, 24)
  bytes.writeDoubleLE(rate, 32)
  bytes.writeBigInt64LE(fsyncNs, 40)
  return bytes
}

export function decodeControl(bytes: Buffer): ShimControl {
  return {
    seq: bytes.readBigUInt64LE(0),
    wallNs: bytes.readBigInt64LE(8),
    sinceNs: bytes.readBigInt64LE(16),
    driftNs: bytes.readBigInt64LE(24),
    rate: bytes.readDoubleLE(32),
    fsyncNs: bytes.readBigInt64LE(40),
  }
}

/** What the shim has added to the monotonic clock at a true time, in nanoseconds. */
export function driftAt({ driftNs, sinceNs, rate }: ShimControl, trueNs: bigint): bigint {
  return driftNs + BigInt(Math.trunc(Number(trueNs - sinceNs) * rate))
}

/** The true time at which the shim shows `shownNs`. */
export function trueTime({ driftNs, sinceNs, rate }: ShimControl, shownNs: bigint): bigint {
  return sinceNs + BigInt(Math.trunc(Number(shownNs - driftNs - sinceNs) / (1 + rate)))
}

/** Reads the machine's monotonic clock, in milliseconds, past the shim of this process if it has one. */
export function machineClock(path: string | undefined = process.env[CLOCK_VARIABLE]): () => number {
  if (path === undefined) return () => Number(process.hrtime.bigint()) / 1e6
  const file = openSync(path, 'r')
  const bytes = Buffer.alloc(CONTROL_BYTES)
  return () => {
    for (;;) {
      const shownNs = process.hrtime.bigint()
      readSync(file, bytes, 0, CONTROL_BYTES, 0)
      const control = decodeControl(bytes)
      // Odd while the file changes. Between the two reads the clock moves by less than anybody could measure.
      if (control.seq % 2n === 0n) return Number(trueTime(control, shownNs)) / 1e6
    }
  }
}
