/** Listeners to hints of one kind. A listener that comes when hints are in force is sent a `resync`: it may have missed some. */
import type { LeaseChange } from './client.ts'
import { queueMicrotask } from './turns.ts'

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

  /** Notifies each present listener, unless an earlier one has removed it. */
  readonly tell: Listener = (change) => {
    for (const listener of [...this.#listeners]) if (this.#listeners.has(listener)) listener(change)
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
