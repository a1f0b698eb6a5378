/**
 * What may be shown of a value that somebody passed, and of a text that came from a driver or a server.
 *
 * Messages, problems and causes end up in logs. A URL, a configuration or a connection that was passed where something else
 * was expected often has a password in it. So only what can hardly be a secret is shown as it is, and everything else by
 * its kind.
 */

import { inspect, type InspectOptions } from 'node:util'
import { DateTime } from 'luxon'

/** Longer strings are shown by their length: no name or option is that long by intent. */
const MAX_SHOWN = 80

/** A URL, an address with a password, a connection string, a header, or JSON with one of these in it. */
const SUSPECT = /:\/\/|:.*@|=|pass|pwd|secret|token|credential|bearer|private|api.?key/is

/**
 * The value as an error may carry it, and the words for it in a message: itself where it is harmless, and otherwise its kind.
 *
 * @param options.byKind whether it is shown by its kind in any case
 */
export function disclosed(
  value: unknown,
  { byKind = false }: { readonly byKind?: boolean } = {},
): { readonly value: unknown; readonly text: string } {
  if (byKind || !isHarmless(value)) return { value: kindOf(value), text: kindOf(value) }
  if (typeof value === 'bigint') return { value, text: `${value}n` }
  return { value, text: value === undefined || typeof value === 'number' ? String(value) : JSON.stringify(value) }
}

/** The value as JSON may have it: a `bigint` as a string, an error by its name, code and message. */
export function reported(value: unknown): unknown {
  if (typeof value === 'bigint') return String(value)
  if (!(value instanceof Error) || 'toJSON' in value) return value
  const { name, message, code } = value as Error & { readonly code?: unknown }
  return { name, code: typeof code === 'string' ? code : undefined, message: withoutSecrets(message) }
}

/**
 * Makes `console.log` and `JSON.stringify` of the instances show these properties, and nothing else: as JSON has them, without those that are
 * undefined.
 *
 * @param name what `console.log` calls it
 */
export function showAs<T extends object>(
  type: { readonly prototype: T },
  name: string,
  properties: readonly (keyof T & string)[],
): void {
  function toJSON(this: T): object {
    const shown: Record<string, unknown> = {}
    for (const property of properties) {
      const value = this[property]
      if (value !== undefined) shown[property] = DateTime.isDateTime(value) ? value.toISO() : reported(value)
    }
    return shown
  }
  function inspected(this: T, _depth: number, options: InspectOptions): string {
    return `${name} ${inspect(toJSON.call(this), options)}`
  }
  const methods = { toJSON: { value: toJSON }, [inspect.custom]: { value: inspected } }
  Object.defineProperties(type.prototype, methods)
}

/** Whether the value may be shown as it is. */
function isHarmless(value: unknown): boolean {
  if (typeof value === 'string') return value.length <= MAX_SHOWN && !SUSPECT.test(value)
  if (typeof value === 'function' || typeof value === 'symbol') return false
  if (typeof value !== 'object' || value === null) return true
  try {
    // As durations are, `{ seconds: 30 }`. Anything that holds a text may hold a password.
    return (
      Object.getPrototypeOf(value) === Object.prototype &&
      Reflect.ownKeys(value).every((key) => isOptionName(key) && !SUSPECT.test(key)) &&
      Object.values(value).every((part) => typeof part === 'number' || typeof part === 'boolean')
    )
  } catch {
    return false // a proxy that throws
  }
}

/** The beginning of a text that may be of any length. */
export function shortened(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length).replace(/[\ud800-\udbff]$/, '')}…`
}

/** What it is, without anything that it holds: "a string of 30 characters", "an object with host, password", "a Pool". */
function kindOf(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (typeof value === 'string') return `a string of ${value.length} characters`
  if (typeof value !== 'object') return `a ${typeof value}`
  try {
    if (Array.isArray(value)) return `an array of ${value.length}`
    const { constructor } = value
    if (typeof constructor === 'function' && constructor !== Object && isOptionName(constructor.name)) {
      return `${/^[AEIO]/.test(constructor.name) ? 'an' : 'a'} ${constructor.name}`
    }
    const names = Object.keys(value).filter(isOptionName)
    const more = names.length > 5 ? ', …' : ''
    return names.length === 0 ? 'an object' : `an object with ${names.slice(0, 5).join(', ')}${more}`
  } catch {
    return 'an object' // a proxy that throws
  }
}

/** The name of an argument or option as a message may use it: what an object has as its keys is its writer's. */
export function disclosedName(argument: string): string {
  return /^[\w.[\]-]{1,80}$/.test(argument) ? argument : 'an option'
}

function isOptionName(key: unknown): key is string {
  return typeof key === 'string' && /^[A-Za-z_]\w{0,39}$/.test(key)
}

/**
 * Removes passwords from the text of a driver, server or callback: those in URLs, in connection strings, and in commands that Redis repeats
 * when it refuses them. Takes time in proportion to the length of the text.
 */
export function withoutSecrets(text: string): string {
  return text
    .replace(/(:\/\/)\S{0,1000}@/g, '$1…@') // a password may have quotes in it
    .replace(
      /(\w{0,40}(?:password|passwd|pwd|secret|credential)\w{0,40}["']?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s,;&}]+)/gi,
      '$1…',
    )
    .replace(/(with args beginning with:?)[^]*/i, '$1 …')
}
