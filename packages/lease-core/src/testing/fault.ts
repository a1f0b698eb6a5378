/** One thing that goes wrong on the way to a substrate: which calls it befalls, and how often it has done so. */
import type { Call, Op } from '../substrate.ts'

/** What a call or operation does, for filters and counts. */
export type CallKind = Op['kind'] | 'read' | 'counted' | 'waiting' | 'pinned' | 'inspect' | 'time'

/** Which calls a fault befalls; all conditions must hold. */
export interface FaultFilter {
  /** @default every kind */
  readonly kind?: CallKind | readonly CallKind[] | undefined
  /** Calls about one of these leases; a read of the whole namespace is about each. @default every lease */
  readonly lease?: string | readonly string[] | undefined
  /** Spares the first that would have been hit. @default 0 */
  readonly skip?: number | undefined
  /** How many are hit. @default all, until it is healed */
  readonly times?: number | undefined
}

/** On the way there, before the store sees it; or on the way back, after it was executed. */
export type FaultPlace = 'request' | 'reply'

export interface PlacedFaultFilter extends FaultFilter {
  /** @default 'request' */
  readonly at?: FaultPlace | undefined
}

/** What can go wrong: one for each method that injects a fault of a round trip. */
export type FaultName =
  | 'delay'
  | 'hang'
  | 'hold-back'
  | 'repeat'
  | 'lose-request'
  | 'reject'
  | 'execute-late'
  | 'duplicate'
  | 'lose-reply'
  | 'fail-after-commit'
  | 'contended'

/** What `loseRequest`, `executeLate`, `loseReply` and `failAfterCommit` fail with. */
export class InjectedFault extends Error {
  override readonly name = 'InjectedFault'
  readonly fault: string

  constructor(fault: string, message: string) {
    super(message)
    this.fault = fault
  }
}

/** An injected fault: watch it strike, and heal it. */
export class Fault {
  readonly #name: FaultName
  readonly #filter: PlacedFaultFilter
  readonly #held = new Set<() => void>()
  /** For `holdBack` and `repeat`: those on their way, each until the store has worked on it. */
  #packets: (() => Promise<void>)[] = []
  #isLetGo = false
  #spared = 0
  #hits = 0
  #healed = false
  /** For `delay`, `duplicate` and `executeLate`. */
  readonly delayMs: number
  /** For `reject`. */
  readonly error: unknown

  /** @internal made by the methods of `FaultySubstrate` */
  constructor(name: FaultName, filter: PlacedFaultFilter, details: { delayMs?: number; error?: unknown } = {}) {
    this.#name = name
    this.#filter = filter
    this.delayMs = details.delayMs ?? 0
    this.error = details.error
  }

  get name(): FaultName {
    return this.#name
  }

  get place(): FaultPlace {
    return this.#filter.at ?? 'request'
  }

  /** How often it has struck. */
  get hits(): number {
    return this.#hits
  }

  /** How many calls it holds back now, or copies of calls. */
  get hanging(): number {
    return this.#held.size + this.#packets.length
  }

  /** It strikes no more, and the calls that it holds back go on. Idempotent. */
  heal(): void {
    this.#healed = true
    for (const release of this.#held) release()
    this.#held.clear()
  }

  /** It strikes no more, and what it has on its way reaches the store, in order; resolves when the store has worked on the last. */
  async letGo(): Promise<void> {
    this.heal()
    this.#isLetGo = true
    const packets = this.#packets
    this.#packets = []
    for (const arrive of packets) await arrive()
  }

  /** @internal keeps a request on its way until it is let go; resolves with the answer */
  keep<T>(execute: () => Promise<T>): Promise<T> {
    if (this.#isLetGo) return execute() // it was delayed before it got here
    return new Promise((resolve, reject) => {
      this.#packets.push(() => execute().then(resolve, reject))
    })
  }

  /** @internal whether it can neither strike any more nor hold a call until it is healed */
  get isOver(): boolean {
    if (this.#healed) return true
    return this.#name !== 'hang' && this.#hits >= (this.#filter.times ?? Number.POSITIVE_INFINITY)
  }

  /** @internal whether it strikes this one, which is then counted */
  strikes(targets: readonly FaultTarget[]): boolean {
    const { skip = 0, times = Number.POSITIVE_INFINITY } = this.#filter
    if (this.#healed || this.#hits >= times || !targets.some((target) => this.#fits(target))) return false
    if (this.#spared < skip) {
      this.#spared++
      return false
    }
    this.#hits++
    return true
  }

  /** @internal resolves when it is healed; rejects with why the call was given up, if that comes first */
  hold(call: Call): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#healed) return resolve()
      this.#held.add(resolve)
      onGivenUp(call, (why) => {
        this.#held.delete(resolve)
        reject(why)
      })
    })
  }

  #fits({ kind, leases }: FaultTarget): boolean {
    const { kind: kinds, lease: names } = this.#filter
    if (kinds !== undefined && ![kinds].flat().includes(kind)) return false
    return names === undefined || leases === 'all' || [names].flat().some((name) => leases.includes(name))
  }
}

/** @internal one operation or call of a round trip */
export interface FaultTarget {
  readonly kind: CallKind
  readonly leases: readonly string[] | 'all'
}

/** @internal calls back with why core has given the call up, when it does */
export function onGivenUp(call: Call, listener: (why: Error) => void): void {
  if (call.onAbort !== undefined) return call.onAbort(listener)
  const { signal } = call
  if (signal.aborted) listener(signal.reason as Error)
  else signal.addEventListener('abort', () => listener(signal.reason as Error), { once: true })
}
