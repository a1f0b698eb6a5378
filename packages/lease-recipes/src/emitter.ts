/**
 * Events of a recipe, by name and typed, without the two traps of Node's `EventEmitter`: a listener that throws does
 * not throw into whoever made the transition, and an `error` that nobody listens to does not end the process.
 *
 * Promises: transitions are told in the order in which they happened and none is dropped; each is complete before it is
 * told, so a listener may call the recipe. What a listener throws, or rejects with, becomes a warning of the process.
 * Whoever comes late reads the present state from the recipe's own properties.
 */
import { callListener, notValid } from 'lease-core'

/** What is called for an event. One that returns a promise is not waited for. */
export type Listener<Args extends readonly unknown[]> = (...args: [...Args]) => unknown

/** Event names with the arguments of their listeners. */
export type EventMap<Events> = { readonly [Name in keyof Events]: readonly unknown[] }

/** The base of every recipe that tells of events. */
export abstract class Emitter<Events extends EventMap<Events>> {
  readonly #listeners = new Map<keyof Events, Entry[]>()
  #queue: { readonly event: keyof Events; readonly args: readonly unknown[] }[] = []

  /**
   * Calls the listener at every such event from now on. A listener that is added twice is called twice.
   *
   * @throws ErrNotValid the listener is not a function
   */
  on<Name extends keyof Events>(event: Name, listener: Listener<Events[Name]>): this {
    return this.#add(event, listener as AnyListener, false)
  }

  /**
   * Calls the listener at the next such event only.
   *
   * @throws ErrNotValid the listener is not a function
   */
  once<Name extends keyof Events>(event: Name, listener: Listener<Events[Name]>): this {
    return this.#add(event, listener as AnyListener, true)
  }

  /** The listener, added last by `on` or `once`, is not called any more. */
  off<Name extends keyof Events>(event: Name, listener: Listener<Events[Name]>): this {
    const entries = this.#listeners.get(event) ?? []
    const at = entries.findLastIndex((entry) => entry.listener === (listener as AnyListener))
    if (at >= 0) entries.splice(at, 1)
    return this
  }

  /** Tells everyone, after the current transition is complete. */
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
        if (!entries.includes(entry)) continue // taken off by a listener before it
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
