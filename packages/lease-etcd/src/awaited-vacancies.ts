/**
 * The vacancies that clients of this process have made, and of which others were notified. A client that has seen somebody come since
 * then has nobody passed over: those in the queue now are others.
 */
import { countedOf, type Op, type Verdict } from 'lease-core'

/** Nobody need ever come: the oldest is forgotten. */
const MOST = 10_000

export class AwaitedVacancies {
  /** By client and lease. */
  readonly #names = new Set<string>()

  /** Whether this client has made a vacancy, others were notified of it, and nobody was seen to have come since. */
  has(client: string, lease: string): boolean {
    return this.#names.size > 0 && this.#names.has(nameOf(client, lease))
  }

  /** @param wasAwaited as it was when the operation was sent: what it found came after the vacancy */
  learn(client: string, { kind, lease }: Op, { told, holding }: Verdict, wasAwaited: boolean): void {
    // Of a share those who wait are in the queue of its counted lease.
    if (told !== undefined) this.#add(nameOf(client, countedOf(lease) ?? lease))
    else if (kind === 'passOver' || (wasAwaited && holding !== undefined)) this.#names.delete(nameOf(client, lease))
  }

  #add(name: string): void {
    const names = this.#names
    names.delete(name)
    names.add(name)
    if (names.size <= MOST) return
    for (const oldest of names) {
      names.delete(oldest)
      return
    }
  }
}

function nameOf(client: string, lease: string): string {
  return `${client} ${lease}`
}
