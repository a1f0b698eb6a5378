/**
 * Reads of one name share round trips, and nobody is answered by a read that was sent before it asked:
 *
 *     asked ──▶ queued ──sent──▶ in flight ──▶ answered      who asks while it is queued shares it
 *                                    └─ next: queued when this one is answered; shared by all who ask until then
 *
 * So there is at most one read of a name in flight, and a name whose reads hang takes one slot, however many ask.
 */
import type { Clock } from './clock.ts'
import { Coalescer, type BatchWatcher, type CoalescerLimits, type Waiting } from './coalescer.ts'
import { CompactingMap } from './compacting-map.ts'

/**
 * Reads all these names in one round trip, each of them once. Rejects when none of them could be read.
 *
 * @param watched those of them that are to be watched from then on
 */
export type ReadNames = (names: readonly string[], watched: readonly string[]) => Promise<void>

export class SharedReads {
  readonly #coalescer: Coalescer<SharedRead, unknown>
  /** The read of each name that is queued or in flight. */
  readonly #reads = new CompactingMap<SharedRead>()

  constructor(
    clock: Clock,
    limits: Omit<CoalescerLimits<SharedRead>, 'timeoutOf'>,
    readNames: ReadNames,
    watcher?: BatchWatcher<unknown, unknown>,
  ) {
    const send = async (reads: readonly SharedRead[]): Promise<readonly unknown[]> => {
      for (const read of reads) read.sent = true
      let error: unknown
      try {
        await readNames(
          reads.map(({ name }) => name),
          reads.filter(({ watches }) => watches).map(({ name }) => name),
        )
      } catch (cause) {
        error = cause
      }
      return reads.map(() => error)
    }
    this.#coalescer = new Coalescer(clock, limits, send, watcher)
  }

  /** Resolves when the name was read, by a read that is sent from now on; rejects with why it could not be read. */
  read(name: string, { watches = false }: { readonly watches?: boolean } = {}): Promise<void> {
    const last = this.#reads.get(name)
    let read: SharedRead
    if (last === undefined) read = this.#begin(new SharedRead(name, this.#ended))
    else read = last.sent ? (last.next ??= new SharedRead(name, this.#ended)) : last
    if (watches) read.watches = true
    return read.outcome
  }

  #begin(read: SharedRead): SharedRead {
    this.#reads.set(read.name, read)
    this.#coalescer.enqueue(read)
    return read
  }

  readonly #ended = ({ name, next }: SharedRead): void => {
    if (next === undefined) this.#reads.delete(name)
    else this.#begin(next)
  }
}

/** One read, and its own place in the queue. */
class SharedRead implements Waiting<SharedRead, unknown> {
  readonly name: string
  readonly outcome: Promise<void>
  sent = false
  watches = false
  /** Asked for after this one was sent. */
  next: SharedRead | undefined
  readonly #ended: (read: SharedRead) => void
  #resolve!: () => void
  #reject!: (error: unknown) => void

  constructor(name: string, ended: (read: SharedRead) => void) {
    this.name = name
    this.#ended = ended
    this.outcome = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  get item(): this {
    return this
  }

  get signal(): undefined {
    return undefined
  }

  settle(error: unknown): void {
    this.#ended(this)
    if (error === undefined) this.#resolve()
    else this.#reject(error)
  }
}
