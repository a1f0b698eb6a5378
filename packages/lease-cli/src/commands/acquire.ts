/** `lease acquire` and `lease release`: a lease that outlives the command, for systemd units and CI. */
import { closeSync, fsyncSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { resolve } from 'node:path'
import { ErrClaimDenied, ErrNotHeld, reasonOf, uniqueHolder } from 'lease-core'
import type { Context } from '../context.ts'
import { parseDuration, showDuration } from '../durations.ts'
import { CommandEnd, EXIT, wrongUsage } from '../exit-codes.ts'
import { waitOf } from '../wait-flag.ts'

/** The flags of `lease acquire`. */
export interface AcquireFlags {
  readonly tokenFile: string
  readonly duration?: string
  readonly pin?: boolean
  readonly holder?: string
  readonly value?: string
  readonly wait?: string | boolean
}

/** What a token file has in it. */
interface TokenFile {
  readonly lease: string
  readonly holder: string
  readonly fencingToken: string
  readonly namespace: string
  readonly pin?: string
}

/**
 * Claims the lease and writes down which term it is. Nobody renews the lease: it lasts for `--duration`, or with `--pin` until `release`.
 * The file is made before the claim, so a term is never held without it.
 */
export async function acquire(context: Context, name: string, flags: AcquireFlags): Promise<number> {
  const durationMs = durationOf(flags)
  const wait = waitOf(flags.wait)
  await context.mustWrite()
  return context.withStore(async ({ manager, namespace }, signal) => {
    const file = resolve(context.io.cwd, flags.tokenFile)
    const descriptor = create(file)
    const holder = flags.holder ?? uniqueHolder('lease-cli')
    let isHeld = false
    try {
      const hold = await manager.hold(name, holder, {
        duration: durationMs,
        wait,
        signal,
        value: flags.value,
        renewEvery: false,
        announce: true,
      })
      const token: TokenFile = {
        lease: name,
        holder,
        fencingToken: String(hold.fencingToken),
        namespace,
        ...(flags.pin === true ? { pin: holder } : {}),
      }
      isHeld = true
      writeSync(descriptor, `${JSON.stringify(token)}\n`)
      fsyncSync(descriptor)
      if (flags.pin === true) {
        await manager.pin(name, holder, { signal })
        // The term may have ended before the pin was set, which then protects another term: asks the store.
        if (!hold.held) await hold.token.check()
      }
      hold.letLapse()
      const { out } = context
      if (out.json) out.object({ ...token, durationMs })
      else
        out.line(
          `acquired ${name} as ${holder}, fencing token ${token.fencingToken}, ${flags.pin === true ? 'pinned until lease release' : `for ${showDuration(durationMs)}`}`,
        )
      return EXIT.ok
    } catch (error) {
      if (error instanceof ErrNotHeld) {
        // A later term of the same holder needs its pin, which has the same name.
        if ((await manager.find(name, { signal }))?.holder !== holder) await manager.unpin(name, holder, { signal })
        isHeld = false
        throw new CommandEnd(
          EXIT.busy,
          `${name} was lost before it was pinned`,
          'try again, and give --duration more time: the lease is claimed for that long before it is pinned',
        )
      }
      if (error instanceof ErrClaimDenied) {
        throw new CommandEnd(
          EXIT.busy,
          `${name} is held by ${error.currentHolder ?? 'another'}`,
          `lease show ${name} shows since when; --wait waits`,
        )
      }
      throw error
    } finally {
      closeSync(descriptor)
      if (!isHeld) rmSync(file, { force: true })
    }
  })
}

/** Ends the term of the token file, and no other, and removes the file. Returns 1 if that term is over already. */
export async function release(context: Context, path: string): Promise<number> {
  const file = resolve(context.io.cwd, path)
  const token = readToken(file)
  await context.mustWrite()
  return context.withStore(async ({ manager, namespace }, signal) => {
    if (namespace !== token.namespace) {
      throw wrongUsage(
        `the token file is of namespace ${token.namespace}, and this is ${namespace}`,
        `give -N ${token.namespace}`,
      )
    }
    const { lease, holder, pin } = token
    const fencingToken = BigInt(token.fencingToken)
    const info = await manager.find(lease, { signal })
    const stands = info?.fencingToken === fencingToken
    if (stands) await manager.revoke(lease, { fencingToken, signal })
    if (pin !== undefined) await manager.unpin(lease, pin, { signal })
    rmSync(file, { force: true })
    const { out } = context
    if (out.json) out.object({ ...token, released: stands })
    else if (stands) out.line(`released ${lease} of ${holder}, fencing token ${fencingToken}`)
    if (stands) return EXIT.ok
    const now =
      info === undefined ? 'nobody holds it' : `${info.holder} holds it, with fencing token ${info.fencingToken}`
    out.fail(
      `the term ${fencingToken} of ${lease} was over already (${now}): what ran since then ran without the lease`,
    )
    return EXIT.no
  })
}

function durationOf({ duration, pin }: AcquireFlags): number {
  if (duration !== undefined) return parseDuration(duration, '--duration')
  if (pin === true) return parseDuration('1m', '--duration')
  throw wrongUsage(
    'nobody renews the lease after this command: say for how long it shall last',
    '--duration 2h, or --pin: until lease release',
  )
}

function create(file: string): number {
  try {
    return openSync(file, 'wx', 0o600)
  } catch (error) {
    const isThere = (error as NodeJS.ErrnoException).code === 'EEXIST'
    if (isThere)
      throw wrongUsage(`the token file ${file} is there already: another term may need it`, `lease release ${file}`)
    throw wrongUsage(`the token file cannot be made: ${reasonOf(error)}`)
  }
}

function readToken(file: string): TokenFile {
  let value: Partial<TokenFile> | undefined
  try {
    value = JSON.parse(readFileSync(file, 'utf8')) as Partial<TokenFile>
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw wrongUsage(`the token file cannot be read: ${reasonOf(error)}`)
  }
  const { lease, holder, fencingToken, namespace } = Object(value) as Partial<TokenFile>
  const isSound =
    [lease, holder, namespace].every((one) => typeof one === 'string') && /^\d+$/.test(String(fencingToken))
  if (!isSound) throw wrongUsage(`${file} is no token file of lease acquire`)
  return value as TokenFile
}
