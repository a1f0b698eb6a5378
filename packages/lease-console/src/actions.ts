/** The actions of operators: revoke exactly the term on screen, pin, unpin. */
import { callListener, ErrNotValid, ErrUnknown, LeaseError, reasonOf, type Clock } from 'lease-core'
import type { ConsoleAction, ConsoleManager, OperatorAction } from './options.ts'
import { json, problem } from './safety.ts'

/** What a POST asks for. */
export interface ActionRequest {
  readonly what: OperatorAction['what']
  readonly namespace: string
  readonly lease: string
  /** Of the term on screen; undefined: the lease was vacant. */
  readonly fencingToken: bigint | undefined
  /** Of a pin. */
  readonly entity: string | undefined
  /** What the operator typed. */
  readonly confirm: string | undefined
}

/** A body is a few names: of 255 bytes each, and up to six times as long in JSON. */
const MAX_BODY = 16_384

/** Reads the body of a POST. Returns a Response that says what is wrong with it. */
export async function readAction(request: Request, what: ActionRequest['what']): Promise<ActionRequest | Response> {
  const text = await textOf(request)
  if (text === undefined) return problem(413, `the body is longer than ${MAX_BODY} bytes`)
  let body: Record<string, unknown>
  try {
    body = Object(JSON.parse(text)) as Record<string, unknown>
  } catch {
    return problem(400, 'the body is not JSON')
  }
  const { namespace, lease, fencingToken, entity, confirm } = body
  if (typeof namespace !== 'string' || typeof lease !== 'string') {
    return problem(400, 'the body must have namespace and lease, as texts')
  }
  const isToken = typeof fencingToken === 'string' && /^\d{1,30}$/.test(fencingToken)
  if (!isToken && (fencingToken !== undefined || what === 'revoke')) {
    return problem(400, 'the body must have the fencingToken of the term on screen, as a text of digits')
  }
  if (what !== 'revoke' && typeof entity !== 'string') return problem(400, 'the body must have the entity of the pin')
  return {
    what,
    namespace,
    lease,
    fencingToken: isToken ? BigInt(fencingToken) : undefined,
    entity: typeof entity === 'string' ? entity : undefined,
    confirm: typeof confirm === 'string' ? confirm : undefined,
  }
}

/** For `authorize`. */
export function permissionFor({ what, namespace, lease, fencingToken, entity }: ActionRequest): ConsoleAction {
  if (what === 'revoke') return { kind: what, namespace, lease, fencingToken: fencingToken ?? 0n }
  return { kind: what, namespace, lease, entity: entity ?? '' }
}

/** Carries an action out, once, and reports it. Never rejects. */
export async function act(
  manager: ConsoleManager,
  asked: ActionRequest,
  {
    who,
    clock,
    onAction,
  }: { who: string | undefined; clock: Clock; onAction: ((done: OperatorAction) => void) | undefined },
): Promise<Response> {
  const { confirm, ...done } = asked
  if (confirm !== asked.lease) return problem(400, 'nothing was done: the typed name is not the name of the lease')
  const report = (outcome: OperatorAction['outcome']): void => {
    if (onAction !== undefined) callListener(() => onAction({ ...done, who, outcome }), 'LeaseConsoleWarning')
  }
  // A read that fails has done nothing.
  let isSent = false
  const sent = (): void => void (isSent = true)
  try {
    const answer =
      asked.what === 'revoke' ? await revoke(manager, asked, clock, sent) : await changePin(manager, asked, sent)
    if (isSent) report('done')
    return answer
  } catch (error) {
    if (error instanceof ErrNotValid) return problem(400, `nothing was done: ${reasonOf(error)}`)
    const isUnknown = isSent && (error instanceof ErrUnknown || !(error instanceof LeaseError))
    if (isUnknown) report('unknown')
    const doubt = isUnknown
      ? 'it may have taken effect; the page shows the state when the store answers again'
      : 'nothing was done'
    return problem(503, `the store did not answer: ${doubt} (${reasonOf(error)})`)
  }
}

async function revoke(
  manager: ConsoleManager,
  { lease, fencingToken }: ActionRequest,
  clock: Clock,
  sent: () => void,
): Promise<Response> {
  const info = await manager.find(lease)
  if (info === undefined) return problem(409, 'nothing was revoked: that term is over, and nobody holds the lease now')
  if (info.fencingToken !== fencingToken) {
    const now = `${info.holder} holds the lease now, with the fencing token ${info.fencingToken}`
    return problem(409, `nothing was revoked: the term with the fencing token ${fencingToken} is over. ${now}`)
  }
  sent()
  await manager.revoke(lease, { fencingToken })
  const reliesForMs = Math.max(0, Math.ceil(info.expiry.toMillis() - clock.now()))
  const rest =
    reliesForMs === 0
      ? `${info.holder} relies on it no longer, because its last grant has run out.`
      : `${info.holder} may go on relying on it for at most ${inWords(reliesForMs)}, unless the news arrives earlier.`
  const guards = `From now on every guard refuses writes with the fencing token ${fencingToken}.`
  return json(200, {
    outcome: 'done',
    message: `The term is over. ${rest} ${guards}`,
    holder: info.holder,
    reliesForMs,
  })
}

async function changePin(manager: ConsoleManager, asked: ActionRequest, sent: () => void): Promise<Response> {
  const { what, lease, entity = '' } = asked
  sent()
  if (what === 'pin') {
    await manager.pin(lease, entity)
    const effect = 'The lease, or its next term if it is vacant, does not expire while it is pinned.'
    return json(200, { outcome: 'done', message: `Pinned for ${entity}. ${effect}` })
  }
  await manager.unpin(lease, entity)
  const effect = 'If no other pin is left, the lease expires when its time runs out, or at once if it has.'
  return json(200, { outcome: 'done', message: `The pin of ${entity} is gone. ${effect}` })
}

/** Rounded up, because it is a bound. */
function inWords(ms: number): string {
  const seconds = Math.ceil(ms / 1000)
  if (seconds < 120) return seconds === 1 ? '1 second' : `${seconds} seconds`
  const minutes = Math.ceil(seconds / 60)
  return minutes < 120 ? `${minutes} minutes` : `${Math.ceil(minutes / 60)} hours`
}

/** undefined: longer than `MAX_BODY`. */
async function textOf(request: Request): Promise<string | undefined> {
  if (request.body === null) return ''
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of request.body as unknown as AsyncIterable<Uint8Array>) {
    length += chunk.byteLength
    if (length > MAX_BODY) return undefined
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}
