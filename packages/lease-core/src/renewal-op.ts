import type { Renewal } from './client.ts'
import type { Waiting } from './coalescer.ts'
import type { ExtendOp, Holding, Op, Verdict } from './substrate.ts'

/** A renewal on its way to the store: the operation, and its own place in the queue, in one object. */
export class RenewalOp implements ExtendOp, Waiting<Op, Verdict> {
  readonly kind = 'extend'
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint
  readonly durationMs: number
  readonly seen: Holding | undefined
  readonly renewal: Renewal
  readonly #settled: (op: RenewalOp, verdict: Verdict | undefined) => void

  constructor(
    renewal: Renewal,
    seen: Holding | undefined,
    settled: (op: RenewalOp, verdict: Verdict | undefined) => void,
  ) {
    this.lease = renewal.lease
    this.holder = renewal.holder
    this.fencingToken = renewal.fencingToken
    this.durationMs = renewal.durationMs
    this.seen = seen
    this.renewal = renewal
    this.#settled = settled
  }

  /** The old value stays. */
  get value(): undefined {
    return undefined
  }

  get item(): this {
    return this
  }

  get key(): string {
    return this.lease
  }

  get signal(): undefined {
    return undefined
  }

  get patient(): true {
    return true
  }

  settle(verdict: Verdict | undefined): void {
    this.#settled(this, verdict)
  }
}
