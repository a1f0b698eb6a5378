/**
 * The attributes of metrics and spans, and the rules that keep them few. On metrics no lease name, holder, fencing token or value ever
 * appears: only the namespace, the kind of the store, and a group that the application derives from the name.
 */
import { createHash } from 'node:crypto'
import type { Attributes } from '@opentelemetry/api'
import { LeaseError, type StoreName } from 'lease-core'
import { countedOf } from 'lease-core/adapter'

/** So many groups are told apart, and as many namespaces, and as many types of errors. The rest are `_other`. */
export const MAX_GROUPS = 200
const OTHER = '_other'

/** Values of one attribute: the first ones are kept, the rest are `_other`. */
export class Values {
  readonly #known = new Set<string>()

  of(value: string): string {
    if (this.#known.has(value)) return value
    if (this.#known.size >= MAX_GROUPS) return OTHER
    this.#known.add(value)
    return value
  }
}

/** Makes the attributes of metrics. */
export class MetricAttributes {
  readonly #groupOf: ((name: string) => string | undefined) | undefined
  readonly #groups = new Values()
  readonly #namespaces = new Values()
  readonly #errors = new Values()

  constructor(groupOf: ((name: string) => string | undefined) | undefined) {
    this.#groupOf = groupOf
  }

  /** @param lease its group is one of them, if the application groups */
  of({ system, namespace }: StoreName, lease?: string): Attributes {
    const attributes: Attributes = {}
    if (system !== undefined) attributes['db.system.name'] = system
    if (namespace !== undefined) attributes['lease.namespace'] = this.#namespaces.of(namespace)
    const group = lease === undefined ? undefined : this.#groupOf?.(nameOf(lease))
    if (typeof group === 'string') attributes['lease.group'] = this.#groups.of(group)
    return attributes
  }

  /** For `error.type`. */
  errorType(error: unknown): string {
    return this.#errors.of(errorTypeOf(error))
  }
}

/** Of a share the name of its counted lease: the name of a share contains the holder. */
export function nameOf(lease: string): string {
  const counted = countedOf(lease)
  return counted === undefined ? lease : counted.slice(0, -1)
}

/** The code of an error of the library or of a driver; otherwise its class. */
export function errorTypeOf(error: unknown): string {
  if (error instanceof LeaseError) return error.code
  if (typeof error !== 'object' || error === null) return typeof error
  const { code, name } = error as { code?: unknown; name?: unknown }
  if (typeof code === 'string' && /^\w{1,64}$/.test(code)) return code
  return typeof name === 'string' && /^\w{1,64}$/.test(name) ? name : 'Error'
}

/** The first 16 digits of its SHA-256: the same for the same text. It hides a name, but not one that can be guessed and tried. */
export function hashed(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 16)
}

const VARIABLE =
  /[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|(?<![a-z0-9])(?=[a-f]*[0-9])[0-9a-f]{8,}(?![a-z0-9])|[0-9]+/gi

/**
 * Groups names that differ in a number, a UUID or a hexadecimal id: each of these becomes `*`. For `groupOf`. `order-4711` and `order-4712`
 * are `order-*`; the id in `job/9f86d081884c7d65/run` becomes `*`.
 */
export function collapseName(name: string): string {
  return name.replace(VARIABLE, '*')
}
