/** A lease as it is shown: in a table, by its fields, and in JSON. */
import { DateTime } from 'luxon'
import type { Info } from 'lease-core'
import { instantsOf } from 'lease-core/adapter'
import { showDuration } from './durations.ts'
import { oneLine, type Column } from './output.ts'

/** A lease at the moment of a read. Its instants are numbers: a hundred thousand of them are compared and shown. */
export interface LeaseView {
  readonly lease: string
  readonly info: Info
  /** The entities that pin it, where they were read. */
  readonly pins: readonly string[] | undefined
  /** By the local wall clock. */
  readonly expiryMs: number
  /** By the local wall clock; undefined: the store does not know it. */
  readonly sinceMs: number | undefined
}

/** What is shown of this lease. */
export function viewOf(lease: string, info: Info, pins?: readonly string[]): LeaseView {
  const { expiryMs, sinceMs } = instantsOf(info)
  return { lease, info, pins, expiryMs, sinceMs }
}

/** Milliseconds for which it has been held; undefined: the store does not know it. */
export function heldForMs({ sinceMs }: LeaseView, nowMs: number): number | undefined {
  return sinceMs === undefined ? undefined : Math.max(0, nowMs - sinceMs)
}

/** Milliseconds until it lapses if nobody renews it, by the last read. */
export function expiresInMs({ expiryMs }: LeaseView, nowMs: number): number {
  return expiryMs - nowMs
}

/** The fields of a lease for programs, as JSON has them. Instants are UTC. */
export function leaseJson(view: LeaseView, nowMs: number): object {
  const { lease, info, pins } = view
  return {
    lease,
    holder: info.holder,
    since: view.sinceMs === undefined ? null : iso(view.sinceMs),
    expiry: iso(view.expiryMs),
    expiresInMs: Math.round(expiresInMs(view, nowMs)),
    pinned: info.pinned,
    ...(pins === undefined ? {} : { pins }),
    fencingToken: String(info.fencingToken),
    value: info.value ?? null,
    ...(info.weight === undefined ? {} : { weight: info.weight }),
  }
}

/** The columns of `lease list`. SINCE is an age. */
export function leaseColumns(nowMs: number): readonly Column<LeaseView>[] {
  return [
    { title: 'LEASE', of: ({ lease }) => lease, yields: 2 },
    { title: 'HOLDER', of: ({ info }) => info.holder, yields: 3 },
    { title: 'SINCE', of: (view) => ago(heldForMs(view, nowMs)), right: true, yields: 0 },
    { title: 'EXPIRES-IN', of: (view) => expiresIn(view, nowMs), right: true, yields: 0 },
    { title: 'PINNED', of: pinnedBy, yields: 4 },
    { title: 'TOKEN', of: ({ info }) => String(info.fencingToken), right: true, yields: 0 },
    { title: 'VALUE', of: ({ info }) => oneLine(info.value ?? '').slice(0, VALUE_CHARS), yields: 5 },
  ]
}

/** A table cuts values: they may be 4 KiB. */
const VALUE_CHARS = 200

/** The fields of a lease, in words. */
export function leaseFields(view: LeaseView, nowMs: number): (readonly [name: string, value: string])[] {
  const { lease, info, pins = [] } = view
  const forMs = heldForMs(view, nowMs)
  return [
    ['lease', lease],
    ['holder', info.holder],
    [
      'since',
      view.sinceMs === undefined ? 'the store does not record it' : `${stamp(view.sinceMs)} (${ago(forMs)} ago)`,
    ],
    [
      'expires',
      `${stamp(view.expiryMs)} (${expiresIn(view, nowMs)})${info.pinned ? ', but a pin keeps it' : ' unless it is renewed'}`,
    ],
    ['pinned by', pins.length === 0 ? 'nobody' : pins.join(', ')],
    ['fencing token', String(info.fencingToken)],
    ['value', info.value === undefined ? 'none' : oneLine(info.value)],
    ...(info.weight === undefined ? [] : [['weight', String(info.weight)] as const]),
  ]
}

/** UTC, to the second. */
export function stamp(ms: number): string {
  return utc(ms).toFormat(`yyyy-MM-dd'T'HH:mm:ss'Z'`)
}

/** As luxon writes it, in a tenth of the time. */
function iso(ms: number): string {
  // eslint-disable-next-line no-restricted-globals -- it writes an instant, and reads no clock
  return new Date(ms).toISOString()
}

function utc(ms: number): DateTime {
  return DateTime.fromMillis(ms, { zone: 'utc' })
}

function ago(ms: number | undefined): string {
  return ms === undefined ? '-' : showDuration(ms)
}

function expiresIn(view: LeaseView, nowMs: number): string {
  const ms = expiresInMs(view, nowMs)
  return view.info.pinned && ms <= 0 ? 'overdue' : showDuration(ms)
}

function pinnedBy({ info, pins }: LeaseView): string {
  if (!info.pinned) return '-'
  return pins === undefined || pins.length === 0 ? 'yes' : pins.join(',')
}
