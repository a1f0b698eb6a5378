/**
 * Counts the calls of a method on every object of a class, from now on: what a driver's class sends, it sends for whoever
 * uses it in this process.
 */
export function countedCalls<Method extends PropertyKey>(
  prototype: Record<Method, (...args: never[]) => unknown>,
  method: Method,
): () => number {
  let calls = 0
  const original = prototype[method]
  prototype[method] = function (this: unknown, ...args) {
    calls++
    return original.apply(this, args)
  }
  return () => calls
}
