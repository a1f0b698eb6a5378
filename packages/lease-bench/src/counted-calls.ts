/**
 * Counts the calls of a method on every object of a class, from now on: what a driver's class sends, it sends for anyone who
 * uses it in this process.
 *
 * @param counts which calls, by their arguments. @default all
 */
export function countedCalls<Method extends PropertyKey>(
  prototype: Record<Method, (...args: never[]) => unknown>,
  method: Method,
  counts: (...args: readonly unknown[]) => boolean = () => true,
): () => number {
  let calls = 0
  const original = prototype[method]
  prototype[method] = function (this: unknown, ...args) {
    if (counts(...args)) calls++
    return original.apply(this, args)
  }
  return () => calls
}

/** Counts the events of these names that objects of a class emit, from now on: a driver emits one for each message. */
export function countedEvents(
  prototype: Record<'emit', (...args: never[]) => unknown>,
  names: readonly string[],
): () => number {
  return countedCalls(prototype, 'emit', (name) => names.includes(String(name)))
}
