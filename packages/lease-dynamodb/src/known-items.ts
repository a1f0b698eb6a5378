/**
 * What this process knows of items: as they were last seen, and which writes may still arrive.
 *
 * A write that was given up may arrive at any time, as long as the item has the version that it demands. So before a later operation on the
 * same lease is answered, the item gets another version.
 */
import type { State } from './layout.ts'

/** How many items are remembered. What is forgotten costs one more read. */
const MOST_KNOWN = 20_000

/** A write whose outcome is not known: the version that it demands. */
export interface InDoubt {
  readonly was: string | undefined
}

export class KnownItems {
  /** The one that was used last comes last. */
  readonly #states = new Map<string, State>()
  readonly #doubts = new Map<string, Set<InDoubt>>()
  readonly #epochs = new Map<string, number>()

  /** As it was last seen; undefined: never. It may have changed since. */
  get(lease: string): State | undefined {
    return this.#states.get(lease)
  }

  /** By the lease. */
  all(): Iterable<readonly [string, State]> {
    return this.#states
  }

  learn(lease: string, state: State): void {
    this.#states.delete(lease)
    this.#states.set(lease, state)
    if (this.#states.size <= MOST_KNOWN) return
    for (const oldest of this.#states.keys()) {
      this.#states.delete(oldest)
      break
    }
  }

  /** A write with this condition is sent now. */
  begin(lease: string, was: string | undefined): InDoubt {
    const doubt = { was }
    const doubts = this.#doubts.get(lease)
    if (doubts === undefined) this.#doubts.set(lease, new Set([doubt]))
    else doubts.add(doubt)
    return doubt
  }

  /** The outcome of this one is known. */
  end(lease: string, ...ended: readonly InDoubt[]): void {
    const doubts = this.#doubts.get(lease)
    for (const doubt of ended) doubts?.delete(doubt)
    if (doubts?.size === 0) this.#doubts.delete(lease)
  }

  /** The writes on this lease that are under way, or whose outcome is not known. */
  doubts(lease: string): readonly InDoubt[] {
    return [...(this.#doubts.get(lease) ?? [])]
  }

  /** Takes over that one of this client was sent in this epoch. */
  sent(client: string, epoch: number): void {
    if (epoch > (this.#epochs.get(client) ?? 0)) this.#epochs.set(client, epoch)
  }

  /** Whether that client has sent one in a later epoch. */
  isStale(client: string, epoch: number): boolean {
    return epoch < (this.#epochs.get(client) ?? 0)
  }
}
