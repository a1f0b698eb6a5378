/**
 * What this process knows of the queues of leases that its clients hold, or have vacated. It only saves requests: a release that nobody
 * waits for reads no queue, and whoever sees that somebody has come has nobody passed over.
 */
import type { Op, Verdict } from 'lease-core'

/** Of a holder that never releases something stays: the oldest is forgotten. */
const MOST = 10_000

export class KnownQueues {
  /** By client and lease: others may wait behind the term of this client. */
  readonly #behind = new Set<string>()
  /** A vacancy of which others were told, and nobody was seen to have come since. */
  readonly #awaited = new Set<string>()

  /** Somebody waits for a lease that this client holds. */
  add(client: string, lease: string): void {
    addTo(this.#behind, nameOf(client, lease))
  }

  /** Whether somebody may wait behind the term of this client. */
  has(client: string, lease: string): boolean {
    return this.#behind.size > 0 && this.#behind.has(nameOf(client, lease))
  }

  /** Whether nobody was seen to have come since this client told others of a vacancy. */
  isAwaited(client: string, lease: string): boolean {
    return this.#awaited.size > 0 && this.#awaited.has(nameOf(client, lease))
  }

  /** @param wasAwaited as it was when the operation was sent: what it found came after the vacancy */
  learn(client: string, op: Op, { outcome, told, holding }: Verdict, wasAwaited: boolean): void {
    const { kind, lease } = op
    if (told !== undefined) addTo(this.#awaited, nameOf(client, lease))
    else if (kind === 'passOver' || (wasAwaited && holding !== undefined)) this.#awaited.delete(nameOf(client, lease))
    if (outcome !== 'granted') return
    if (kind === 'release' && this.#behind.size > 0) this.#behind.delete(nameOf(client, lease))
    // Its turn had come, so others may have come after it.
    if (kind === 'claim' && op.place !== undefined && op.place > 0) this.add(client, lease)
  }
}

function addTo(names: Set<string>, name: string): void {
  names.delete(name)
  names.add(name)
  if (names.size <= MOST) return
  for (const oldest of names) {
    names.delete(oldest)
    return
  }
}

function nameOf(client: string, lease: string): string {
  return `${client} ${lease}`
}
