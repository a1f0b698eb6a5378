/**
 * One direction of a connection through a proxy: bytes wait here for as long as a fault wants them to, and go on in order.
 */

/** What happens to the next bytes: they go on, wait until {@link Lane.flush}, are late at random, or go on bit by bit. */
export type Treatment =
  | { readonly kind: 'pass' }
  | { readonly kind: 'hold' }
  | { readonly kind: 'delay'; readonly maxMs: number }
  | { readonly kind: 'trickle'; readonly maxBytes: number; readonly maxMs: number }

interface Waiting {
  readonly bytes: Buffer
  /** On the clock of `performance`; what is late by chance never overtakes what was sent before. */
  readonly dueMs: number
}

/** Asks for the treatment whenever bytes could go on. */
export class Lane {
  readonly #treatment: () => Treatment
  readonly #send: (bytes: Buffer) => void
  readonly #end: () => void
  #waiting: Waiting[] = []
  #ended = false
  #timer: NodeJS.Timeout | undefined

  /** `end` is called once everything that came before {@link Lane.end} has gone on. */
  constructor(treatment: () => Treatment, send: (bytes: Buffer) => void, end: () => void) {
    this.#treatment = treatment
    this.#send = send
    this.#end = end
  }

  /** Bytes wait. */
  get isWaiting(): boolean {
    return this.#waiting.length > 0
  }

  push(bytes: Buffer): void {
    const treatment = this.#treatment()
    const lateMs = treatment.kind === 'delay' ? Math.random() * treatment.maxMs : 0
    const lastMs = this.#waiting.at(-1)?.dueMs ?? 0
    this.#waiting.push({ bytes, dueMs: Math.max(lastMs, performance.now() + lateMs) })
    if (this.#timer === undefined) this.flush()
  }

  /** The side that sends has hung up. */
  end(): void {
    if (this.#ended) return
    this.#ended = true
    if (!this.isWaiting) this.#end()
  }

  /** Lets bytes go on that need not wait any longer: the treatment may have changed. */
  flush(): void {
    this.stop()
    for (let [first] = this.#waiting; first !== undefined; [first] = this.#waiting) {
      const treatment = this.#treatment()
      if (treatment.kind === 'hold') return
      if (treatment.kind === 'delay') {
        const restMs = first.dueMs - performance.now()
        if (restMs > 0) return this.#later(restMs)
      }
      this.#waiting.shift()
      if (treatment.kind === 'trickle') {
        const length = 1 + Math.floor(Math.random() * treatment.maxBytes)
        const rest = first.bytes.subarray(length)
        if (rest.length > 0) this.#waiting.unshift({ ...first, bytes: rest })
        this.#send(first.bytes.subarray(0, length))
        if (this.isWaiting) return this.#later(Math.random() * treatment.maxMs)
      } else this.#send(first.bytes)
    }
    if (this.#ended) this.#end()
  }

  /** No timer is left; what waits is not sent. */
  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #later(ms: number): void {
    this.#timer = setTimeout(() => this.flush(), ms)
  }
}
