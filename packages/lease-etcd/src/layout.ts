/**
 * How leases lie in the store: layout 2.
 *
 *     <prefix><namespace>/l/<lease>   {"h": holder, "d": milliseconds, "n": nonce, "v": value, "w": weight of a share}
 *     <prefix><namespace>/p/<lease>   {"entity": generation of its pin, …}
 *     <prefix><namespace>/a/<lease>   empty: put again whenever a claim or a new value is to be announced
 *     <prefix><namespace>/g/<counted lease>  {"c": capacity, "g": generation, "u": made by a claim, "m": the largest weight of a share,
 *         "w": what all weigh at most, "f": generation of the first definition} (`gates.ts`)
 *     <prefix><namespace>/t/<lease, as in a URL>/<place, 16 digits>/<client>  {"d": milliseconds, "w": weight of a share}: who waits
 *         for it (`waiting.ts`)
 *     <prefix><namespace>/w/<lease>   empty: put again by each claim that asks for a ticket
 *     <prefix><namespace>/s/<lease>   {"taken": [[lease, place, milliseconds]]}: which ticket was granted it last
 *     <prefix><namespace>/c/<client>/<lease>  what others have to say to this client about a lease, as in `hint-message.ts`
 *     <prefix><namespace>/m/<holder>  empty: put by earlier releases, for claims of any of several leases
 *     <prefix><namespace>/e/<client>  its epoch, after a request of it was lost (`epochs.ts`)
 *     <prefix><namespace>/o/<client>/<number>  empty: put anew by each request that a driver might send twice (`epochs.ts`)
 *     <prefix><namespace>/v           the number of the layout (`layout-check.ts`)
 *
 * The fencing token is the key's `create_revision`, its version the `mod_revision`: the store keeps both by itself, and
 * a revision is never given twice. So every term begins with the creation of the key, never with a put over it.
 *
 * A key has no etcd lease exactly while it is pinned. So its record alone says all there is to know about a lease.
 *
 * A share is a lease, and the name of its counted lease ends with a `#`. So all shares of one are a range of keys.
 *
 * Layout 1 had neither of the last three keys, and its pins had no generations: ["entity", …].
 */
import { countedOf, type ClaimOp, type Holding, type Pins } from 'lease-core/adapter'
import type { EtcdCompare, EtcdKeyValue } from './driver.ts'
import { isEmpty } from './txn.ts'

/** What is written for a lease that is held. */
export interface Body {
  readonly holder: string
  /** The longest duration granted in this term. */
  readonly durationMs: number
  /** Of the claim that opened the term, or of the last adoption. */
  readonly nonce: string
  readonly value: string | undefined
  /** Of a share. */
  readonly weight?: number | undefined
}

/** A lease that is held, as the store has it. */
export interface Found {
  readonly body: Body
  readonly holding: Holding
}

/** The keys of one lease, each made when it is asked for: most operations need one or two, and that of the lease more than once. */
export class Keys {
  readonly #root: string
  readonly #name: string
  #key: Buffer | undefined

  constructor(root: string, name: string) {
    this.#root = root
    this.#name = name
  }

  get key(): Buffer {
    return (this.#key ??= Buffer.from(`${this.#root}/l/${this.#name}`))
  }

  /** Of a counted lease: what decides each grant of a share. */
  get gate(): Buffer {
    return Buffer.from(`${this.#root}/g/${this.#name}`)
  }

  /** The keys of the counted lease, if this is a share of one; else these. Its queue is there. */
  get queue(): Keys {
    const counted = countedOf(this.#name)
    return counted === undefined || counted === this.#name ? this : new Keys(this.#root, counted)
  }

  /** What is watched for vacancies: of a counted lease the range of all its shares. */
  get vacancies(): { readonly key: Buffer; readonly range_end?: Buffer } {
    const { key } = this
    return countedOf(this.#name) === undefined ? { key } : { key, range_end: endOf(key) }
  }

  get pin(): Buffer {
    return Buffer.from(`${this.#root}/p/${this.#name}`)
  }

  /** Put when there is news. */
  get news(): Buffer {
    return Buffer.from(`${this.#root}/a/${this.#name}`)
  }

  /** Put by each claim that asks for a ticket. */
  get counter(): Buffer {
    return Buffer.from(`${this.#root}/w/${this.#name}`)
  }

  /** What the keys of all tickets begin with. */
  get tickets(): Buffer {
    return Buffer.from(this.#tickets)
  }

  ticket(place: number, client: string): Buffer {
    return Buffer.from(`${this.#tickets}${digits(place)}/${encodeURIComponent(client)}`)
  }

  /** The end of the range of all tickets up to this place. */
  afterTicket(place: number): Buffer {
    return Buffer.from(`${this.#tickets}${digits(place)}0`)
  }

  /** In which others tell this client about the lease. */
  toldTo(client: string): Buffer {
    return Buffer.from(`${this.#root}/c/${encodeURIComponent(client)}/${this.#name}`)
  }

  get #tickets(): string {
    return `${this.#root}/t/${encodeURIComponent(this.#name)}/`
  }

  /** Which ticket was granted the lease last. */
  get served(): Buffer {
    return Buffer.from(`${this.#root}/s/${this.#name}`)
  }
}

/** What follows the root of a namespace in keys that end with a name of somebody's choice. */
export const KINDS: ReadonlySet<string> = new Set(['l', 'p', 'a', 'g', 't', 'w', 's', 'c', 'm', 'e', 'o'])

/** The keys of one namespace. */
export class Layout {
  readonly leases: Buffer
  readonly pins: Buffer
  readonly news: Buffer
  readonly served: Buffer
  /** The condition that there is no ticket in the namespace; always the same object, for many share it (`bundle.ts`). */
  readonly nobodyWaits: EtcdCompare
  /** Says in which layout this namespace is. */
  readonly version: Buffer
  /** What all keys of this namespace begin with. */
  readonly root: Buffer
  /** The same as `version` of each namespace among whose keys those of this one would lie. */
  readonly outer: readonly Buffer[]
  readonly #root: string

  /** @param prefix ends with a slash */
  constructor(prefix: string, namespace: string) {
    const root = `${prefix}${encodeURIComponent(namespace)}`
    this.#root = root
    this.leases = Buffer.from(`${root}/l/`)
    this.pins = Buffer.from(`${root}/p/`)
    this.news = Buffer.from(`${root}/a/`)
    this.served = Buffer.from(`${root}/s/`)
    const tickets = Buffer.from(`${root}/t/`)
    this.nobodyWaits = isEmpty(tickets, endOf(tickets))
    this.version = Buffer.from(`${root}/v`)
    this.root = Buffer.from(`${root}/`)
    const parts = root.split('/')
    const isInside = (_: string, index: number): boolean => index >= 2 && KINDS.has(parts[index] ?? '')
    this.outer = parts.flatMap((part, index) =>
      isInside(part, index) ? [Buffer.from(`${parts.slice(0, index).join('/')}/v`)] : [],
    )
  }

  lease(name: string): Buffer {
    return this.keysOf(name).key
  }

  /** What all keys begin with in which others tell this client something. */
  toldTo(client: string): Buffer {
    return Buffer.from(`${this.#root}/c/${encodeURIComponent(client)}/`)
  }

  epochOf(client: string): Buffer {
    return Buffer.from(`${this.#root}/e/${client}`)
  }

  /** The nth of this client. */
  onceOf(client: string, number: number): Buffer {
    return Buffer.from(`${this.#root}/o/${client}/${number}`)
  }

  /** All that there may be about one lease. */
  keysOf(name: string): Keys {
    return new Keys(this.#root, name)
  }

  /** The name of the lease that a key about a lease is about. */
  nameOf(key: Buffer): string {
    return key.toString('utf8', this.leases.length)
  }
}

/** The end of the range of all keys that begin with this one, whose last byte is a slash or a `#`. */
export function endOf(prefix: Buffer): Buffer {
  const end = Buffer.from(prefix)
  end[end.length - 1] = (end.at(-1) ?? 0) + 1
  return end
}

/** One who waits. */
export interface FoundTicket {
  readonly place: number
  readonly client: string
  /** For how long it claims the lease. */
  readonly durationMs: number
  /** Of the share that it waits for; of a lease that is none 1. */
  readonly weight: number
  /** It leaves the queue, and is not granted the lease. */
  readonly leaves: boolean
}

export function ticketOf({ durationMs, share }: Pick<ClaimOp, 'durationMs' | 'share'>): Buffer {
  return Buffer.from(JSON.stringify({ d: durationMs, w: share?.weight }))
}

/** What a ticket says just before it is removed by its own client. */
export const LEAVES: Buffer = Buffer.from('{"leaves":true}')

/**
 * What the key of a ticket says.
 *
 * @throws when it was not written by this library
 */
export function ticketNamed(key: Buffer): Pick<FoundTicket, 'place' | 'client'> {
  const [place = '', client = ''] = key.toString().split('/').slice(-2)
  if (!/^\d{16}$/.test(place)) throw foreign(key)
  return { place: Number(place), client: decodeURIComponent(client) }
}

/** @throws when the key was not written by this library */
export function ticketIn({ key, value }: Pick<EtcdKeyValue, 'key' | 'value'>): FoundTicket {
  const { d = 0, w = 1, leaves = false } = parsed(key, value) as { d?: unknown; w?: unknown; leaves?: unknown }
  if (typeof d !== 'number' || typeof w !== 'number' || typeof leaves !== 'boolean') throw foreign(key)
  return { ...ticketNamed(key), durationMs: d, weight: w, leaves }
}

/** Places as text, which the store compares byte by byte. */
function digits(place: number): string {
  return String(place).padStart(16, '0')
}

export function bodyOf({ holder, durationMs, nonce, value, weight }: Body): Buffer {
  return Buffer.from(JSON.stringify({ h: holder, d: durationMs, n: nonce, v: value, w: weight }))
}

/** @throws when the key was not written by this library */
export function foundIn({ key, value, create_revision, mod_revision, lease }: EtcdKeyValue): Found {
  const { h, d, n, v, w } = parsed(key, value) as Readonly<Record<string, unknown>>
  if (typeof h !== 'string' || typeof d !== 'number' || typeof n !== 'string') throw foreign(key)
  if (v !== undefined && typeof v !== 'string') throw foreign(key)
  if (w !== undefined && typeof w !== 'number') throw foreign(key)
  return {
    body: { holder: h, durationMs: d, nonce: n, value: v, weight: w },
    holding: {
      holder: h,
      fencingToken: BigInt(create_revision),
      nonce: n,
      remainingMs: d,
      value: v,
      pinned: lease === '0',
      version: mod_revision,
      weight: w,
    },
  }
}

/** A term that was just written. */
export function holdingOf(
  { holder, durationMs, nonce, value, weight }: Body,
  version: string,
  { since, pinned }: { readonly since: string | bigint; readonly pinned: boolean },
): Holding {
  return { holder, fencingToken: BigInt(since), nonce, remainingMs: durationMs, value, pinned, version, weight }
}

/** Of pins in layout 1. */
const GENERATION_OF_OLD = '0'

export function pinsOf(pins: Pins): Buffer {
  return Buffer.from(JSON.stringify(Object.fromEntries(pins)))
}

/** @throws when the key was not written by this library */
export function pinsIn({ key, value }: EtcdKeyValue): Pins {
  const content = parsed(key, value)
  const pins: [string, unknown][] = Array.isArray(content)
    ? content.map((entity) => [entity as string, GENERATION_OF_OLD])
    : Object.entries(content)
  if (!pins.every((pin): pin is [string, string] => pin.every((part) => typeof part === 'string'))) throw foreign(key)
  return new Map(pins.toSorted(([one], [other]) => (one < other ? -1 : 1)))
}

export function parsed(key: Buffer, value: Buffer): object {
  try {
    const content: unknown = JSON.parse(value.toString())
    if (typeof content === 'object' && content !== null) return content
  } catch {
    // not JSON
  }
  throw foreign(key)
}

/** The key was not written by this library. */
export function foreign(key: Buffer): Error {
  return new Error(`the key ${JSON.stringify(key.toString())} was written by somebody else: is the prefix shared?`)
}
