/** The end of the wire in a process: tells when each operation is sent. */
import type { LeaseChange, Trapdoor } from 'lease-core'
import type { Call, Counted, Holding, Op, Pins, Substrate, Verdict } from 'lease-core/adapter'

export class Wire implements Substrate {
  readonly limits: Substrate['limits']
  declare readonly time?: (call: Call) => Promise<number>
  declare readonly watch?: (listener: (change: LeaseChange) => void, client?: string) => () => void
  declare readonly counted?: (lease: string, call: Call) => Promise<Counted>
  declare readonly waiting?: (lease: string, call: Call) => Promise<number>
  readonly #inner: Substrate
  readonly #sending: (op: Op) => void

  constructor(inner: Substrate, sending: (op: Op) => void) {
    this.#inner = inner
    this.#sending = sending
    this.limits = inner.limits
    if (inner.time !== undefined) this.time = async (call) => (await inner.time?.(call)) ?? 0
    if (inner.watch !== undefined) this.watch = (heard, client) => inner.watch?.(heard, client) ?? ((): void => {})
    const counted = inner.counted?.bind(inner)
    if (counted !== undefined) this.counted = counted
    const waiting = inner.waiting?.bind(inner)
    if (waiting !== undefined) this.waiting = waiting
  }

  apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    // A copy of each attempt, so that those of one operation can be distinguished.
    const copies = ops.map((op) => (Object.getPrototypeOf(op) === Object.prototype ? { ...op } : op))
    for (const op of copies) this.#sending(op)
    return this.#inner.apply(copies, call)
  }

  read(
    leases: readonly string[] | undefined,
    call: Call,
    watched?: readonly string[],
  ): Promise<ReadonlyMap<string, Holding>> {
    return this.#inner.read(leases, call, watched)
  }

  pinned(call: Call, leases?: readonly string[]): Promise<ReadonlyMap<string, Pins>> {
    return this.#inner.pinned(call, leases)
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    return this.#inner.trapdoor(lease, holder, fencingToken)
  }

  close(): Promise<void> {
    return this.#inner.close()
  }
}
