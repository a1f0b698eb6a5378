/** Counts the events of these names on every object of a class, from now on: a driver emits one for each message. */
export function countedEvents(
  prototype: { emit(name: string | symbol, ...args: never[]): boolean },
  names: readonly string[],
): () => number {
  let events = 0
  const emit = prototype.emit
  prototype.emit = function (this: unknown, name, ...args) {
    if (typeof name === 'string' && names.includes(name)) events++
    return emit.call(this, name, ...args)
  }
  return () => events
}
