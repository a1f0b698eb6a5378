/** What a trapdoor key is: a connection inside a transaction, or a guard of one of our packages. */
export function keyKindOf(key: unknown): 'none' | 'transaction' | 'guard' {
  if (key === undefined) return 'none'
  for (let at: unknown = key; typeof at === 'object' && at !== null; at = Object.getPrototypeOf(at)) {
    if (Object.getOwnPropertySymbols(at).some(({ description = '' }) => GUARD.test(description))) return 'guard'
  }
  return 'transaction'
}

/** Each guard has a symbol of this name, in every copy of its package. */
const GUARD = /^lease-\w+\.\w+Guard(\/\d+)?$/
