/** The trapdoor key of the memory substrate. */
import { notValid } from '../errors.ts'

/** The symbol on the guards of every copy of this package. */
const MEMORY_GUARD = Symbol.for('lease-core.MemoryGuard')

/**
 * Runs a synchronous body only if the checked term still stands. Check and body are one transaction, because no other JavaScript runs in
 * between. What the body throws reaches the caller of the check unchanged.
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
   * @throws ErrNotValid the body is an async function, which may lose the lease at its first `await`, or a generator function, which runs
   *   later or never
   */
  constructor(body: () => T extends PromiseLike<unknown> | Iterator<unknown> | AsyncIterator<unknown> ? never : T) {
    if (typeof body !== 'function' || /^Async|^Generator/.test(body.constructor.name)) {
      throw notValid([{ argument: 'body', rule: 'must be a synchronous function', value: body }])
    }
    this.#body = body
  }

  /** What the body returned when it last ran; undefined if it has not run. */
  get result(): T | undefined {
    return this.#result
  }

  /**
   * Runs the body. For the trapdoor.
   *
   * @throws ErrNotValid the body returned a promise or an iterator, whose later work is not guarded
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
