import type { LeaseChange } from './client.ts'
import { callListener } from './errors.ts'

/** Passes hints on to any number of listeners, from the first one that comes to the last one that goes. */
export class Hints {
  readonly #watch: (listener: (change: LeaseChange) => void) => (() => void) | undefined
  readonly #listeners = new Set<(change: LeaseChange) => void>()
  #unwatch: (() => void) | undefined
  #isClosed = false

  constructor(watch: (listener: (change: LeaseChange) => void) => (() => void) | undefined) {
    this.#watch = watch
  }

  /** Returns how to stop. */
  listen(listener: (change: LeaseChange) => void): () => void {
    const own = (change: LeaseChange): void => callListener(() => listener(change))
    this.#listeners.add(own)
    if (!this.#isClosed) this.#unwatch ??= this.#watch((change) => this.tell(change))
    return () => {
      this.#listeners.delete(own)
      if (this.#listeners.size === 0) this.#stop()
    }
  }

  /** Who waits learns that it is in vain. */
  close(): void {
    this.#isClosed = true
    this.tell({ kind: 'resync' })
    this.#stop()
    this.#listeners.clear()
  }

  /** Those who listen now, unless one before them has stopped them. */
  tell(change: LeaseChange): void {
    for (const notify of [...this.#listeners]) if (this.#listeners.has(notify)) notify(change)
  }

  #stop(): void {
    this.#unwatch?.()
    this.#unwatch = undefined
  }
}
