/**
 * The vacancies that clients of this process have made, and others were notified of them. A client that has seen somebody come since
 * then has nobody passed over: those in the queue now are others. Of a counted lease it has seen that where the gate is another.
 */
import { countedOf, LatestMap, type Op, type Verdict } from 'lease-core/adapter'
import type { KnownGates } from './gates.ts'

/** Nobody need ever come: the oldest is forgotten. */
const MOST = 10_000

export class AwaitedVacancies {
  readonly #gates: KnownGates
  /** By client and lease: of a counted lease the version of its gate. */
  readonly #names = new LatestMap<string | undefined>(MOST)

  constructor(gates: KnownGates) {
    this.#gates = gates
  }

  /** Whether this client has made a vacancy, others were notified of it, and nobody was seen to have come since. */
  has(client: string, lease: string): boolean {
    if (this.#names.size === 0) return false
    const name = nameOf(client, lease)
    if (!this.#names.has(name)) return false
    const version = this.#names.get(name)
    return version === undefined || version === (this.#gates.get(lease)?.version ?? version)
  }

  /** @param wasAwaited as it was when the operation was sent: what it found came after the vacancy */
  learn(client: string, { kind, lease }: Op, { told, holding }: Verdict, wasAwaited: boolean): void {
    if (told !== undefined) this.#add(client, lease)
    else if (kind === 'passOver' || (wasAwaited && holding !== undefined)) this.#names.delete(nameOf(client, lease))
  }

  #add(client: string, lease: string): void {
    const counted = countedOf(lease)
    const name = nameOf(client, counted ?? lease)
    this.#names.set(name, counted === undefined ? undefined : this.#gates.get(counted)?.version)
  }
}

function nameOf(client: string, lease: string): string {
  return `${client} ${lease}`
}
