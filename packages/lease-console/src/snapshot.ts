/**
 * All leases of one namespace as they were at one read, and the pages of it: filtered, sorted and cut on the server, so that a browser never
 * gets more than one page of 100,000 leases. Viewers who ask for the same page share the work.
 */
import type { Info } from 'lease-core'
import { instantsOf } from 'lease-core/adapter'

/** One lease, as the page gets it. Instants are of the server's wall clock, in milliseconds since the epoch. */
export interface LeaseRow {
  readonly lease: string
  /** Absent: the lease is vacant, and shown because it is pinned. */
  readonly holder?: string | undefined
  /** When the term was opened. Absent: vacant, or the store does not know it. */
  readonly sinceMs?: number | undefined
  /** Until when the lease may be valid without an extension. */
  readonly expiresMs?: number | undefined
  /** As text: it may be above 2⁵³. */
  readonly fencingToken?: string | undefined
  /** Of a share: how much of the capacity it takes. */
  readonly weight?: number | undefined
  /** The entities that pin it, sorted. */
  readonly pinnedBy: readonly string[]
  /** Of one lease, not of a list: how many processes wait for it at most. Absent: the store does not say. */
  readonly waiting?: number | undefined
  /** Only if the console and the viewer want values; in a list at most `MAX_LISTED_VALUE` characters. */
  readonly value?: string | undefined
}

/** Which leases, in which order, and which page of them. */
export interface Query {
  /** The leases whose name, holder or pinning entity contains this text, in any case. */
  readonly filter: string
  readonly view: View
  readonly sort: SortKey
  readonly descending: boolean
  /** From 1. A page after the last one is the last one. */
  readonly page: number
  /** Rows of a page. */
  readonly size: number
  readonly values: boolean
}

/** `longest`: held, of a known age. `expiring`: held and not pinned. */
export type View = 'all' | 'longest' | 'expiring' | 'pinned'
export type SortKey = 'lease' | 'holder' | 'since' | 'expires' | 'token'

/** One page. */
export interface Page {
  readonly rows: readonly LeaseRow[]
  /** From 1. */
  readonly page: number
  readonly pages: number
  /** How many leases match. */
  readonly matching: number
  /** How many leases of the namespace are held. */
  readonly held: number
}

/** The longest value in a list, in UTF-16 units. */
export const MAX_LISTED_VALUE = 80
/** How many different pages of one snapshot are kept. */
const MAX_CACHED = 64

interface Entry {
  readonly lease: string
  readonly info: Info | undefined
  readonly pinnedBy: readonly string[]
}

const NOBODY: readonly string[] = []

/** The leases and pins of one read. */
export class Snapshot {
  readonly #entries: Entry[] = []
  readonly #held: number
  readonly #sorted = new Map<string, readonly Entry[]>()
  readonly #pages = new Map<string, Page>()

  constructor(leases: ReadonlyMap<string, Info>, pins: ReadonlyMap<string, readonly string[]>) {
    for (const [lease, info] of leases) this.#entries.push({ lease, info, pinnedBy: pins.get(lease) ?? NOBODY })
    for (const [lease, pinnedBy] of pins) {
      if (!leases.has(lease)) this.#entries.push({ lease, info: undefined, pinnedBy })
    }
    this.#held = leases.size
  }

  page(query: Query): Page {
    const key = JSON.stringify(query)
    let page = this.#pages.get(key)
    if (page === undefined) {
      page = this.#cut(query)
      if (this.#pages.size >= MAX_CACHED) this.#pages.clear()
      this.#pages.set(key, page)
    }
    return page
  }

  #cut({ filter, view, sort, descending, page: wanted, size, values }: Query): Page {
    const lower = filter.toLowerCase()
    const matches = this.#inOrder(sort, descending).filter((entry) => views[view](entry) && contains(entry, lower))
    const pages = Math.max(1, Math.ceil(matches.length / size))
    const page = Math.min(wanted, pages)
    const cut = matches.slice((page - 1) * size, page * size)
    const rows = cut.map(({ lease, info, pinnedBy }) => rowOf(lease, info, pinnedBy, values ? MAX_LISTED_VALUE : 0))
    return { rows, page, pages, matching: matches.length, held: this.#held }
  }

  #inOrder(sort: SortKey, descending: boolean): readonly Entry[] {
    const key = `${sort} ${descending}`
    let sorted = this.#sorted.get(key)
    if (sorted === undefined) this.#sorted.set(key, (sorted = inOrder(this.#entries, sort, descending ? -1 : 1)))
    return sorted
  }
}

/** @param longestValue how much of the value is shown; 0: nothing */
export function rowOf(
  lease: string,
  info: Info | undefined,
  pinnedBy: readonly string[],
  longestValue: number,
): LeaseRow {
  if (info === undefined) return { lease, pinnedBy }
  const { holder, fencingToken, weight, value } = info
  const { expiryMs, sinceMs } = instantsOf(info)
  const isCut = value !== undefined && value.length > longestValue
  return {
    lease,
    holder,
    sinceMs,
    expiresMs: expiryMs,
    fencingToken: String(fencingToken),
    weight,
    pinnedBy,
    ...(longestValue > 0 && { value: isCut ? `${value.slice(0, longestValue)}…` : value }),
  }
}

/** Sorts by one key, read once for each entry; those without it come last in both directions, and equal ones by name. */
function inOrder(entries: readonly Entry[], sort: SortKey, direction: 1 | -1): readonly Entry[] {
  const keyed = entries.map((entry) => ({ entry, key: keys[sort](entry) }))
  keyed.sort((a, b) => {
    if (a.key !== b.key) {
      if (a.key === undefined) return 1
      if (b.key === undefined) return -1
      return a.key < b.key ? -direction : direction
    }
    return a.entry.lease < b.entry.lease ? -1 : 1
  })
  return keyed.map(({ entry }) => entry)
}

type Key = string | number | bigint | undefined

const keys: Readonly<Record<SortKey, (entry: Entry) => Key>> = {
  lease: ({ lease }) => lease,
  holder: ({ info }) => info?.holder,
  since: ({ info }) => info && instantsOf(info).sinceMs,
  expires: ({ info }) => info && instantsOf(info).expiryMs,
  token: ({ info }) => info?.fencingToken,
}

const views: Readonly<Record<View, (entry: Entry) => boolean>> = {
  all: () => true,
  longest: ({ info }) => info?.since !== undefined,
  expiring: ({ info, pinnedBy }) => info !== undefined && !info.pinned && pinnedBy.length === 0,
  pinned: ({ info, pinnedBy }) => info?.pinned === true || pinnedBy.length > 0,
}

/** @param filter in lower case */
function contains({ lease, info, pinnedBy }: Entry, filter: string): boolean {
  if (filter === '') return true
  const isFound = (text: string): boolean => text.toLowerCase().includes(filter)
  return isFound(lease) || (info !== undefined && isFound(info.holder)) || pinnedBy.some(isFound)
}
