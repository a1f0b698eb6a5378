/** Those who listen to hints of one kind. Anyone who comes when they are in force is notified, as it may have missed some. */
import type { LeaseChange } from 'lease-core'

// Node's own: fake timers may replace the global one.
const { queueMicrotask } = globalThis

type Listener = (change: LeaseChange) => void

export class HintListeners {
  readonly #listeners = new Set<Listener>()
  #isOn = false

  get isUsed(): boolean {
    return this.#listeners.size > 0
  }

  add(listener: Listener): void {
    this.#listeners.add(listener)
    if (this.#isOn) queueMicrotask(() => this.#listeners.has(listener) && listener({ kind: 'resync' }))
  }

  delete(listener: Listener): void {
    this.#listeners.delete(listener)
  }

  readonly tell: Listener = (change) => {
    for (const listener of [...this.#listeners]) listener(change)
  }

  /** Hints come from now on, and some may have been lost. */
  begin(): void {
    this.#isOn = true
    this.tell({ kind: 'resync' })
  }

  /** Nobody listens any more. */
  clear(): void {
    this.#listeners.clear()
  }
}
