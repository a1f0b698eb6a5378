/**
 * Typed events of a recipe, without two traps of Node's `EventEmitter`: a listener that throws does not throw into the code that caused the
 * event, and an `error` event without a listener does not end the process.
 *
 * Promises: events arrive in the order in which they happened, and none is dropped. A transition is complete before its event arrives, so a
 * listener may call the recipe. What a listener throws, or rejects with, becomes a warning of the process. A late listener reads the
 * present state from the properties of the recipe.
 */
import { callListener, notValid } from 'lease-core'

// Node's own: fake timers may replace the global one.
const { queueMicrotask } = globalThis

/** Called for an event. A returned promise is not awaited. */
export type Listener<Args extends readonly unknown[]> = (...args: [...Args]) => unknown

/** Event names with the arguments of their listeners. */
export type EventMap<Events> = { readonly [Name in keyof Events]: readonly unknown[] }

/** The base class of recipes with events. */
export abstract class Emitter<Events extends EventMap<Events>> {
  readonly #listeners = new Map<keyof Events, Entry[]>()
  #queue: { readonly event: keyof Events; readonly args: readonly unknown[] }[] = []

  /**
   * Calls the listener at every event of this name from now on. A listener that is added twice is called twice.
   *
   * @throws ErrNotValid the listener is not a function
   */
  on<Name extends keyof Events>(event: Name, listener: Listener<Events[Name]>): this {
    return this.#add(event, listener as AnyListener, false)
  }

  /**
   * Calls the listener at the next event of this name only.
   *
   * @throws ErrNotValid the listener is not a function
   */
  once<Name extends keyof Events>(event: Name, listener: Listener<Events[Name]>): this {
    return this.#add(event, listener as AnyListener, true)
  }

  /** Removes the listener: the registration that `on` or `once` added last. */
  off<Name extends keyof Events>(event: Name, listener: Listener<Events[Name]>): this {
    const entries = this.#listeners.get(event) ?? []
    const at = entries.findLastIndex((entry) => entry.listener === (listener as AnyListener))
    if (at >= 0) entries.splice(at, 1)
    return this
  }

  /** Calls the listeners when the current transition is complete. */
  protected emit<Name extends keyof Events>(event: Name, ...args: Events[Name]): void {
    if (this.#queue.push({ event, args }) === 1) queueMicrotask(() => this.#deliver())
  }

  #add(event: keyof Events, listener: AnyListener, once: boolean): this {
    if (typeof listener !== 'function') {
      throw notValid([{ argument: 'listener', rule: 'must be a function', value: listener }])
    }
    const entries = this.#listeners.get(event)
    if (entries === undefined) this.#listeners.set(event, [{ listener, once }])
    else entries.push({ listener, once })
    return this
  }

  #deliver(): void {
    const told = this.#queue
    this.#queue = []
    for (const { event, args } of told) {
      const entries = this.#listeners.get(event) ?? []
      for (const entry of [...entries]) {
        if (!entries.includes(entry)) continue // removed by an earlier listener
        if (entry.once) entries.splice(entries.indexOf(entry), 1)
        callListener(async () => entry.listener(...args)) // async: a promise of another realm may reject, too
      }
    }
  }
}

type AnyListener = (...args: readonly unknown[]) => unknown

interface Entry {
  readonly listener: AnyListener
  readonly once: boolean
}
