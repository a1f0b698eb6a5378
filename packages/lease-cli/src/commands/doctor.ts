/**
 * `lease doctor`: why it does not work, or what may go wrong. Each step is explained; one that fails ends those that need it. It writes
 * nothing, and returns 1 on findings, so that a deployment can wait for it.
 */
import { lookup } from 'node:dns/promises'
import { connect } from 'node:net'
import { ErrUnknown, sleep, systemClock, type Clock } from 'lease-core'
import type { Call, SubstrateWarning } from 'lease-core/adapter'
import type { PostgresPool } from 'lease-postgres'
import type { Context } from '../context.ts'
import { showDuration } from '../durations.ts'
import { stamp } from '../lease-view.ts'
import { CommandEnd, EXIT } from '../exit-codes.ts'
import { advice, causeOf, CONNECT_MS, namespaceOf, type Store } from '../store.ts'
import type { Settings } from '../settings.ts'
import { parseStoreUrl, shown, type HostPort, type StoreUrl } from '../store-url.ts'
import { lookAtCertificate } from '../tls.ts'

/** What one check has found. */
export interface Finding {
  readonly check: string
  readonly status: 'ok' | 'warning' | 'failed'
  readonly message: string
  readonly hints: readonly string[]
}

/** So many rows of vacant leases are worth a word. */
const MANY_ROWS = 100_000
/** A certificate that ends within this time is worth a word. */
const SOON_MS = 7 * 86_400_000
/** Clocks that differ by more are worth a word: the library does not mind, people who read logs do. */
const CLOCKS_APART_MS = 5_000

/** Writes what each check has found. */
export async function doctor(context: Context): Promise<number> {
  const findings: Finding[] = []
  for await (const finding of check(context)) {
    findings.push(finding)
    if (!context.out.json) tell(context, finding)
  }
  const bad = findings.filter(({ status }) => status !== 'ok')
  if (context.out.json) context.out.object({ ok: bad.length === 0, findings })
  else
    context.out.line(
      bad.length === 0
        ? context.out.good('no findings')
        : context.out.bad(`${bad.length} ${bad.length === 1 ? 'finding' : 'findings'}`),
    )
  return bad.length === 0 ? EXIT.ok : EXIT.no
}

async function* check(context: Context): AsyncGenerator<Finding> {
  const settings = await context.settings.read()
  const url = parseStoreUrl(settings.url, settings.urlFrom)
  namespaceOf(settings, url)
  yield good('url', `${url.address}, from ${settings.urlFrom}${url.tls ? ', with TLS' : ''}`)
  if (settings.urlFrom === '--url' && url.password !== undefined) {
    yield {
      check: 'secret',
      status: 'warning',
      message: 'the password in --url was visible to everyone who can list processes',
      hints: ['put the URL into LEASE_URL, or into a file: --url-file'],
    }
  }
  const reached = await Promise.all(url.hosts.map((host) => reachable(host, context.io.clock)))
  yield* reached
  if (reached.length > 0 && reached.every(({ status }) => status === 'failed')) return
  for (const [index, host] of url.hosts.entries()) {
    const tls = reached[index]?.status === 'ok' ? await certificate(url, host, context.io.clock) : undefined
    if (tls !== undefined) yield tls
  }
  const interrupt = context.interrupts()
  let store: Store
  try {
    store = await context.open(settings, { signal: interrupt.signal })
  } catch (error) {
    if (!(error instanceof CommandEnd) || error.exitCode !== EXIT.unavailable) throw error
    yield {
      check: 'login',
      status: 'failed',
      message: error.message,
      hints: error.hints.filter((hint) => !hint.includes('lease doctor')),
    }
    return
  } finally {
    interrupt.end()
  }
  const ignoreWarnings = store.events.subscribe(() => {}) // the same that `inspect` finds
  try {
    yield good(
      'login',
      store.kind === 'dynamodb'
        ? 'the server answers, and takes the credentials'
        : 'the server answers, and takes user and password',
    )
    yield* inspect(store, settings)
  } finally {
    ignoreWarnings()
    await store.close()
  }
}

async function* inspect(store: Store, place: Settings): AsyncGenerator<Finding> {
  const substrate = store.substrate()
  if (substrate.time !== undefined)
    yield await clockDifference((call) => substrate.time?.(call) ?? Promise.reject(new Error('no clock')))
  let leases
  try {
    leases = await store.manager.leases()
  } catch (error) {
    yield { check: 'tables and rights', status: 'failed', message: causeOf(error), hints: hintsOf(error, store) }
    return
  }
  yield good(
    'tables and rights',
    `${leases.size} ${leases.size === 1 ? 'lease is' : 'leases are'} held in namespace ${store.namespace}`,
  )
  try {
    const warnings =
      (await asked((call) => substrate.inspect?.(call) ?? Promise.resolve<readonly SubstrateWarning[]>([]))) ?? []
    if (warnings.length === 0) yield good('set-up', 'nothing in the set-up of the server weakens a promise')
    for (const { warning, message } of warnings)
      yield { check: `set-up: ${warning}`, status: 'warning', message, hints: [pageOf(store)] }
  } catch (error) {
    yield { check: 'set-up', status: 'failed', message: causeOf(error), hints: [] }
  }
  yield* leftovers(store)
  if (store.pool !== undefined) yield await tombstones(store, store.pool, place)
}

/** Pins that keep a lease although its holder does not renew it any more, and pins that nobody's lease needs. */
async function* leftovers({ manager }: Store): AsyncGenerator<Finding> {
  const pinned = await manager.pinned()
  const leases = await manager.leases()
  const nowMs = systemClock.now()
  let found = 0
  for (const [lease, entities] of pinned) {
    const info = leases.get(lease)
    const overdueMs = info === undefined ? 0 : nowMs - info.expiry.toMillis()
    if (info !== undefined && overdueMs <= 0) continue
    found++
    const by = entities.join(', ')
    yield {
      check: 'leftovers',
      status: 'warning',
      message:
        info === undefined
          ? `${lease} is pinned by ${by}, and nobody holds it: its next holder cannot lose it by lapse`
          : `${lease} is kept by the pin of ${by} alone: ${info.holder} has not renewed it for ${showDuration(overdueMs)}`,
      hints: [
        info === undefined
          ? `lease unpin ${lease} ENTITY`
          : `if ${info.holder} is dead: lease unpin ${lease} ENTITY, or lease revoke ${lease}`,
      ],
    }
  }
  if (found === 0) yield good('leftovers', 'no pin is left without a holder who renews')
}

/** PostgreSQL keeps a row of each lease that was ever held, until `collect` removes it. */
async function tombstones(
  { namespace }: Store,
  pool: PostgresPool,
  { schema, table = 'lease' }: Settings,
): Promise<Finding> {
  const { escapeIdentifier } = await import('pg')
  const name = [schema, table].flatMap((part) => (part === undefined ? [] : [escapeIdentifier(part)])).join('.')
  const connection = await pool.connect()
  try {
    const text = `SELECT count(*)::int AS rows FROM (SELECT FROM ${name} WHERE ns = $1 AND holder IS NULL LIMIT $2) found`
    const { rows } = await connection.query(text, [namespace, MANY_ROWS])
    const { rows: found } = rows[0] as { readonly rows: number }
    if (found < MANY_ROWS)
      return good('vacant leases', `${found} ${found === 1 ? 'row' : 'rows'} of leases that nobody holds`)
    const message = `${MANY_ROWS} rows or more of leases that nobody holds: lists and VACUUM take longer`
    return { check: 'vacant leases', status: 'warning', message, hints: ['lease collect --retention 1d, each day'] }
  } catch (error) {
    return { check: 'vacant leases', status: 'failed', message: causeOf(error), hints: [] }
  } finally {
    connection.release()
  }
}

async function clockDifference(time: (call: Call) => Promise<number>): Promise<Finding> {
  try {
    const sentMs = systemClock.now()
    const serverMs = await asked(time)
    const differMs = serverMs - (sentMs + systemClock.now()) / 2
    const message = `the clock of the server is ${Math.abs(differMs) < 1 ? 'as ours' : `${showDuration(Math.abs(differMs))} ${differMs > 0 ? 'ahead of' : 'behind'} ours`}`
    if (Math.abs(differMs) <= CLOCKS_APART_MS) return good('clocks', message)
    return {
      check: 'clocks',
      status: 'warning',
      message,
      hints: ['leases do not mind, only rates count; but look at NTP on both machines'],
    }
  } catch (error) {
    return { check: 'clocks', status: 'failed', message: causeOf(error), hints: [] }
  }
}

/** A call of our own, with the time-out of the others. */
async function asked<T>(body: (call: Call) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  const limit = sleep(systemClock, CONNECT_MS, controller.signal).then(() => {
    throw new Error(`no answer within ${CONNECT_MS / 1000} seconds`)
  })
  limit.catch(() => {})
  try {
    const call = {
      signal: controller.signal,
      timeoutMs: CONNECT_MS,
      client: 'lease-cli-doctor',
      epoch: 0,
      sentMs: undefined,
      notAfterMs: undefined,
    }
    return await Promise.race([body(call), limit])
  } finally {
    controller.abort()
  }
}

async function reachable({ host, port }: HostPort, clock: Clock): Promise<Finding> {
  const check = `reach ${shown({ host, port })}`
  try {
    const { address } = await lookup(host)
    const startedMs = clock.monotonic()
    await new Promise<void>((resolve, reject) => {
      const socket = connect({ host: address, port })
      const timer = clock.setTimer(CONNECT_MS, () =>
        socket.destroy(new Error(`no answer within ${CONNECT_MS / 1000} seconds`)),
      )
      socket.once('connect', () => {
        timer.cancel()
        socket.destroy()
        resolve()
      })
      socket.once('error', (error) => {
        timer.cancel()
        reject(error)
      })
    })
    return good(
      check,
      `${address === host ? '' : `${address}, `}a connection takes ${Math.ceil(clock.monotonic() - startedMs)} ms`,
    )
  } catch (error) {
    return { check, status: 'failed', message: causeOf(error), hints: advice(error) }
  }
}

/** The certificate of the server; undefined: the URL asks for no TLS. */
async function certificate(url: StoreUrl, host: HostPort, clock: Clock): Promise<Finding | undefined> {
  if (url.kind === 'dynamodb') return undefined // the SDK knows whom to trust
  const check = `tls ${shown(host)}`
  const limit = new AbortController()
  const timer = clock.setTimer(CONNECT_MS, () =>
    limit.abort(new Error(`no answer within ${CONNECT_MS / 1000} seconds`)),
  )
  try {
    const found = await lookAtCertificate(url, host, limit.signal)
    if (found === undefined) return undefined
    const { protocol, issuer, names, validToMs, problem } = found
    const message = `${protocol}, a certificate for ${names}, signed by ${issuer}, valid until ${stamp(validToMs)}`
    if (problem !== undefined) {
      return { check, status: 'failed', message: `${message}: ${causeOf(problem)}`, hints: advice(problem) }
    }
    const leftMs = validToMs - clock.now()
    if (leftMs > SOON_MS) return good(check, message)
    return { check, status: 'warning', message, hints: [`renew it within ${showDuration(leftMs)}`] }
  } catch (error) {
    if (error instanceof CommandEnd) throw error
    return { check, status: 'failed', message: causeOf(error), hints: advice(error) }
  } finally {
    timer.cancel()
  }
}

function hintsOf(error: unknown, { kind }: Store): readonly string[] {
  if (!(error instanceof ErrUnknown) || error.reason !== 'set-up') return advice(error)
  if (kind === 'postgres') return ['lease migrate makes what is missing; lease plans prints the SQL']
  return kind === 'dynamodb' ? ['lease migrate makes a missing table; lease plans prints it for CloudFormation'] : []
}

function pageOf({ kind }: Store): string {
  return `read docs/substrates/${kind}.md`
}

function good(check: string, message: string): Finding {
  return { check, status: 'ok', message, hints: [] }
}

function tell({ out }: Context, { check, status, message, hints }: Finding): void {
  const sign = { ok: out.good('ok     '), warning: out.doubtful('warning'), failed: out.bad('failed ') }[status]
  out.line(`${sign} ${out.bold(check)}: ${message}`)
  for (const hint of hints) out.line(`          ${hint}`)
}
