/** An arm that does the same as the library with the driver alone, and its forms for comparison. */
import type { Contestant } from '../bench.ts'

export interface ByHand {
  /** Leases that one request can carry; undefined: as many as there are. */
  readonly atMost?: number
  claim(leases: readonly string[]): Promise<void>
  /** Of leases that were claimed here. */
  extend(leases: readonly string[]): Promise<void>
  release(leases: readonly string[]): Promise<void>
  close(): Promise<void>
}

/** How long its leases last: until the measurement is over. */
export const LONG_MS: number = 2 * 3_600_000

/** A request for each lease. */
export function oneByOne(hand: ByHand): Contestant {
  return {
    one: { claim: (lease) => hand.claim([lease]), release: (lease) => hand.release([lease]) },
    close: () => hand.close(),
  }
}

/** A request for many leases, and that many requests out at once. */
export function inBatches(hand: ByHand, inFlight: number): Contestant {
  const { atMost = Number.POSITIVE_INFINITY } = hand
  const split = async (leases: readonly string[], send: (part: readonly string[]) => Promise<void>): Promise<void> => {
    if (leases.length <= atMost) return send(leases)
    for (let from = 0; from < leases.length; from += atMost) await send(leases.slice(from, from + atMost))
  }
  return {
    many: {
      inFlight,
      claim: (leases) => split(leases, (part) => hand.claim(part)),
      extend: (leases) => split(leases, (part) => hand.extend(part)),
      release: (leases) => split(leases, (part) => hand.release(part)),
    },
    close: () => hand.close(),
  }
}

/** `4 batches in flight`. */
export function batches(inFlight: number): string {
  return `${inFlight} batch${inFlight === 1 ? '' : 'es'} in flight`
}

/** `statement-batch-4`. */
export function batchName(name: string, inFlight: number): string {
  return inFlight === 1 ? `${name}-batch` : `${name}-batch-${inFlight}`
}
