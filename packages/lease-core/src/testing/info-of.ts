/** Builds what a scripted client shows. */
import type { DateTime } from 'luxon'
import { lockedTrapdoor } from '../client.ts'
import type { Info, Trapdoor } from '../lease.ts'

export interface InfoParts {
  readonly holder: string
  /** The test clock's `in` makes one: `clock.in(30_000)`. */
  readonly expiry: DateTime
  /** @default 1n */
  readonly fencingToken?: bigint | undefined
  /** @default undefined */
  readonly value?: string | undefined
  /** @default false */
  readonly pinned?: boolean | undefined
  /** @default lockedTrapdoor */
  readonly trapdoor?: Trapdoor | undefined
}

/** An `Info` of these parts. */
export function infoOf({ holder, expiry, fencingToken, value, pinned, trapdoor }: InfoParts): Info {
  return {
    holder,
    expiry,
    fencingToken: fencingToken ?? 1n,
    value,
    pinned: pinned ?? false,
    trapdoor: trapdoor ?? lockedTrapdoor,
  }
}
