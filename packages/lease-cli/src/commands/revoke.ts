/** `lease revoke`: takes a lease from its holder, this term and no other. `lease pin`, `unpin` and `pins`. */
import type { Info, Manager } from 'lease-core'
import type { Context } from '../context.ts'
import { showDuration } from '../durations.ts'
import { CommandEnd, EXIT, wrongUsage } from '../exit-codes.ts'
import { expiresInMs, stamp, viewOf } from '../lease-view.ts'
import { oneLine } from '../output.ts'
import type { Store } from '../store.ts'

/** The flags of `lease revoke`. */
export interface RevokeFlags {
  readonly token?: string
  readonly holder?: string
  readonly allOf?: string
  readonly reason?: string
  readonly yes?: boolean
  readonly dryRun?: boolean
}

/** The flags of `lease pin` and `lease unpin`. */
export interface DryRun {
  readonly dryRun?: boolean
}

interface Held {
  readonly lease: string
  readonly info: Info
}

/** Revokes one lease, or all of one holder. */
export async function revoke(context: Context, name: string | undefined, flags: RevokeFlags): Promise<number> {
  if ((name === undefined) === (flags.allOf === undefined)) {
    throw wrongUsage(
      'name one lease, or all of one holder with --all-of HOLDER',
      'lease revoke nightly --token 17123',
      'lease revoke --all-of web3-4711',
    )
  }
  const token = tokenOf(flags.token)
  if (flags.allOf !== undefined && (token !== undefined || flags.holder !== undefined)) {
    throw wrongUsage('--token and --holder are of one lease, not of --all-of')
  }
  if (flags.dryRun !== true) await context.mustWrite()
  return context.withStore(async (store, signal) => {
    const found =
      name === undefined
        ? await allOf(store, flags.allOf as string)
        : [await one(store, name, { token, holder: flags.holder })]
    if (found.length === 0)
      throw new CommandEnd(EXIT.no, `${flags.allOf} holds nothing in namespace ${store.namespace}`)
    if (flags.dryRun === true) {
      for (const held of found) tell(context, held, { change: 'would revoke', reason: flags.reason })
      return EXIT.ok
    }
    const question = found.map((held) => `This takes ${describe(held, context.now())}.`).join('\n')
    await context.confirm(question, name ?? (flags.allOf as string), { yes: flags.yes === true, signal })
    const by = await context.settings.author()
    let failed = 0
    for (const held of found) {
      if (await revokeTerm(store.manager, held)) tell(context, held, { change: 'revoked', by, reason: flags.reason })
      else {
        failed++
        context.out.fail(
          `${held.lease}: the term ${held.info.fencingToken} of ${held.info.holder} was over already; nothing was changed`,
        )
      }
    }
    return failed === 0 ? EXIT.ok : EXIT.no
  })
}

/** @returns whether it was this call that ended the term */
async function revokeTerm(manager: Manager, { lease, info }: Held): Promise<boolean> {
  let isEnded = false
  const end = manager.events.subscribe((event) => {
    if (event.type === 'revoked' && event.lease === lease && event.holder === info.holder) isEnded = true
  })
  try {
    await manager.revoke(lease, { fencingToken: info.fencingToken })
    await Promise.resolve() // the event is delivered after the transition
  } finally {
    end()
  }
  return isEnded
}

async function allOf({ manager }: Store, holder: string): Promise<Held[]> {
  const leases = await manager.leases()
  return [...leases].filter(([, info]) => info.holder === holder).map(([lease, info]) => ({ lease, info }))
}

async function one(
  { manager }: Store,
  lease: string,
  asked: { readonly token: bigint | undefined; readonly holder: string | undefined },
): Promise<Held> {
  const info = await manager.find(lease)
  if (info === undefined) throw new CommandEnd(EXIT.no, `nobody holds ${lease}: there is nothing to revoke`)
  if (asked.token !== undefined && asked.token !== info.fencingToken) {
    const why = asked.token < info.fencingToken ? 'that term is over' : 'there was never such a term'
    throw new CommandEnd(
      EXIT.no,
      `refused: ${lease} is held by ${info.holder} with fencing token ${info.fencingToken}, not ${asked.token}: ${why}`,
    )
  }
  if (asked.holder !== undefined && asked.holder !== info.holder) {
    throw new CommandEnd(EXIT.no, `refused: ${lease} is held by ${info.holder}, not by ${asked.holder}`)
  }
  return { lease, info }
}

function describe({ lease, info }: Held, nowMs: number): string {
  const since = info.since === undefined ? '' : `, held for ${showDuration(nowMs - info.since.toMillis())}`
  return `${lease} from ${info.holder} (fencing token ${info.fencingToken}${since})`
}

/** What was done, by whom, to which term, and what the former holder may still do. */
function tell(
  context: Context,
  held: Held,
  { change, by, reason }: { readonly change: string; readonly by?: string; readonly reason?: string | undefined },
): void {
  const { out } = context
  const { lease, info } = held
  const nowMs = context.now()
  const restMs = Math.max(0, expiresInMs(viewOf(lease, info), nowMs))
  if (out.json) {
    return out.object({
      change,
      lease,
      holder: info.holder,
      fencingToken: info.fencingToken,
      mayRelyUntil: info.expiry.toUTC().toISO(),
      mayRelyForMs: Math.round(restMs),
      by: by ?? null,
      reason: reason ?? null,
    })
  }
  const author = by === undefined ? '' : ` by ${by}`
  const why = reason === undefined ? '' : `: ${oneLine(reason)}`
  out.line(`${change} ${describe(held, nowMs)}${author}${why}`)
  out.line(
    restMs === 0
      ? '  its holder relies on nothing any more'
      : `  until it hears of it, its holder may rely on the lease for up to ${showDuration(restMs)}, until ${stamp(info.expiry.toMillis())}; guards and fencing tokens refuse it from now on`,
  )
}

function tokenOf(text: string | undefined): bigint | undefined {
  if (text === undefined) return undefined
  if (!/^\d{1,20}$/.test(text))
    throw wrongUsage(`--token must be a fencing token, a whole number (got ${text.slice(0, 40)})`)
  return BigInt(text)
}

/** Pins a lease for an entity, or withdraws that pin. */
export async function pin(
  context: Context,
  { lease, entity }: { readonly lease: string; readonly entity: string },
  { kind, ...flags }: DryRun & { readonly kind: 'pin' | 'unpin' },
): Promise<number> {
  if (flags.dryRun !== true) await context.mustWrite()
  return context.withStore(async ({ manager }, signal) => {
    const before = (await manager.pinned()).get(lease) ?? []
    const isPinned = before.includes(entity)
    const changes = isPinned !== (kind === 'pin')
    if (flags.dryRun !== true && (changes || kind === 'pin')) {
      await (kind === 'pin' ? manager.pin(lease, entity, { signal }) : manager.unpin(lease, entity, { signal }))
    }
    const by = await context.settings.author()
    const others = before.filter((one) => one !== entity)
    const info = await manager.find(lease, { signal })
    const pins = kind === 'pin' ? [...others, entity].toSorted() : others
    if (context.out.json) {
      context.out.object({
        change: kind,
        dryRun: flags.dryRun === true,
        lease,
        entity,
        by,
        changed: changes,
        pins,
        holder: info?.holder ?? null,
        fencingToken: info?.fencingToken ?? null,
      })
    } else {
      const done = flags.dryRun === true ? `would ${kind}` : `${kind}ned`
      const state =
        info === undefined ? 'nobody holds it' : `held by ${info.holder}, fencing token ${info.fencingToken}`
      context.out.line(
        `${done} ${lease} for ${entity} by ${by} (${state}; pinned by ${pins.length === 0 ? 'nobody' : pins.join(', ')})`,
      )
    }
    return EXIT.ok
  })
}

/** Writes every pinned lease with the entities that pin it. */
export async function pins(context: Context): Promise<number> {
  return context.withStore(async ({ manager }) => {
    const [pinned, leases] = [await manager.pinned(), await manager.leases()]
    const rows = [...pinned].flatMap(([lease, entities]) =>
      entities.map((entity) => ({ lease, entity, info: leases.get(lease) })),
    )
    const { out } = context
    if (out.json) {
      await out.array(
        rows.map(({ lease, entity, info }) => ({
          lease,
          entity,
          holder: info?.holder ?? null,
          fencingToken: info === undefined ? null : String(info.fencingToken),
        })),
      )
    } else if (rows.length === 0) out.note('no lease is pinned')
    else {
      await out.table(
        [
          { title: 'LEASE', of: ({ lease }) => lease, yields: 2 },
          { title: 'ENTITY', of: ({ entity }) => entity, yields: 1 },
          { title: 'HOLDER', of: ({ info }) => info?.holder ?? '-', yields: 3 },
        ],
        rows,
      )
    }
    return EXIT.ok
  })
}
