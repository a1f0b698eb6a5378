/** The trapdoor key of the memory substrate. */
import { notValid } from '../errors.ts'

/** On the guards of every copy of this package. */
const MEMORY_GUARD = Symbol.for('lease-core.MemoryGuard')

/**
 * Runs a synchronous body only while exactly the holding that was checked still stands. Nothing can come between the
 * check and the body, for JavaScript runs one at a time: they are one transaction. What the body throws reaches the
 * caller of the check as it is.
 *
 *     const guard = new MemoryGuard(() => accounts.set('a', 90))
 *     await manager.token('account-a', 'worker-1').check(guard)
 */
export class MemoryGuard<T = unknown> {
  readonly #body: () => T
  #result: T | undefined

  static {
    Object.defineProperty(this.prototype, MEMORY_GUARD, { value: true })
  }

  /**
   * @throws ErrNotValid for an async function, whose lease may be lost at its first `await`, and for a generator function, whose body
   *   runs later or never
   */
  constructor(body: () => T extends PromiseLike<unknown> | Iterator<unknown> | AsyncIterator<unknown> ? never : T) {
    if (typeof body !== 'function' || /^Async|^Generator/.test(body.constructor.name)) {
      throw notValid([{ argument: 'body', rule: 'must be a synchronous function', value: body }])
    }
    this.#body = body
  }

  /** What the body returned when it last ran; undefined while it has not run. */
  get result(): T | undefined {
    return this.#result
  }

  /**
   * For the trapdoor: runs the body.
   *
   * @throws ErrNotValid it returned a promise or an iterator: what these do is not guarded
   */
  run(): void {
    const result = this.#body()
    if (isLater(result)) {
      const rule = 'must be synchronous: it returned a promise or an iterator, whose work is not guarded'
      throw notValid([{ argument: 'body', rule, value: this.#body }])
    }
    this.#result = result
  }
}

function isLater(result: unknown): boolean {
  if (typeof result !== 'object' || result === null) return false
  const { then, next } = result as { readonly then?: unknown; readonly next?: unknown }
  if (typeof then === 'function') return true
  return typeof next === 'function' && (Symbol.iterator in result || Symbol.asyncIterator in result)
}

/** Whether the key is a `MemoryGuard` of this or another copy of this package. */
export function isMemoryGuard(key: unknown): key is MemoryGuard {
  return typeof key === 'object' && key !== null && MEMORY_GUARD in key
}
