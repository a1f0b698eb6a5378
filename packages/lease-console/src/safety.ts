/**
 * What keeps other sites, and what is written in names and values, from acting in the name of an operator.
 *
 * - Every response forbids other origins: no CORS header, no frames, no scripts or styles but the console's own, no guessing of types.
 * - A POST needs a header that no form and no cross-site request without CORS can send, and JSON as its type.
 * - What the browser says about its origin must be this origin. `Sec-Fetch-Site` is enough, because a page cannot set it. Without it `Origin`
 *   must name the host that the request was sent to.
 */
const COMMON: Readonly<Record<string, string>> = {
  'content-security-policy':
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; require-trusted-types-for 'script'",
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
}

/** The header that every POST must carry, with any value. */
export const ACTION_HEADER = 'x-lease-console'

/** Makes a response with the headers of safety. */
export function respond(
  status: number,
  body: string | ReadableStream<Uint8Array> | undefined,
  headers: Readonly<Record<string, string>> = {},
): Response {
  return new Response(body, { status, headers: { ...COMMON, 'cache-control': 'no-store', ...headers } })
}

/** Makes a response of JSON. */
export function json(status: number, body: object, headers: Readonly<Record<string, string>> = {}): Response {
  return respond(status, JSON.stringify(body), { ...headers, 'content-type': 'application/json; charset=utf-8' })
}

/** Makes a response that says why nothing was done. */
export function problem(status: number, message: string, headers?: Readonly<Record<string, string>>): Response {
  return json(status, { error: message }, headers)
}

/** As for what does not exist: the same for everything that is hidden. */
export function notFound(): Response {
  return problem(404, 'there is nothing here')
}

/** Why this request was made by another site; undefined: it was not. */
export function crossSiteReason(request: Request): string | undefined {
  const { headers, method } = request
  const site = headers.get('sec-fetch-site')
  const isNavigation = headers.get('sec-fetch-mode') === 'navigate' && (method === 'GET' || method === 'HEAD')
  if (site !== null && site !== 'same-origin' && site !== 'none' && !isNavigation) {
    return `it was sent by another site (Sec-Fetch-Site: ${site === 'same-site' ? site : 'cross-site'})`
  }
  if (method !== 'POST') return undefined
  if (!headers.has(ACTION_HEADER)) return `it has no header ${ACTION_HEADER}`
  if (!/^application\/json\b/i.test(headers.get('content-type') ?? ''))
    return 'its content-type is not application/json'
  const origin = headers.get('origin')
  if (site === 'same-origin' || origin === null || isOwn(origin, request)) return undefined
  return 'its Origin is not the host that it was sent to'
}

/** By host and port alone: behind a proxy that ends TLS, the scheme differs. */
function isOwn(origin: string, request: Request): boolean {
  if (!URL.canParse(origin)) return false // `null`, as of a sandboxed frame
  const own = request.headers.get('host') ?? new URL(request.url).host
  return new URL(origin).host === own.toLowerCase()
}
