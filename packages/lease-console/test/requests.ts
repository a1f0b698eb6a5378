/** Requests as the page sends them, without a server. */

export const ORIGIN = 'http://console.test'
/** What the page sends with an action. */
export const OWN: Readonly<Record<string, string>> = {
  'content-type': 'application/json',
  'x-lease-console': '1',
  'sec-fetch-site': 'same-origin',
  origin: ORIGIN,
  host: 'console.test',
}
/** Options of a console that acts. */
export const ALLOWED = { readOnly: false, authorize: () => ({ who: 'dana' }) } as const

export type Console = (request: Request) => Promise<Response>

export interface Row {
  readonly lease: string
  readonly holder?: string
  readonly fencingToken?: string
  readonly sinceMs?: number
  readonly expiresMs?: number
  readonly pinnedBy: readonly string[]
  readonly value?: string
  readonly waiting?: number
}

/** Of any JSON answer. */
export interface Answer {
  readonly rows: readonly Row[]
  readonly row: Row
  readonly page: number
  readonly pages: number
  readonly matching: number
  readonly held: number
  readonly nowMs: number
  readonly readMs?: number
  readonly trouble?: string
  readonly error?: string
  readonly message?: string
  readonly reliesForMs?: number
}

export interface Answered {
  readonly status: number
  readonly headers: Headers
  readonly body: Answer
}

export async function get(
  console: Console,
  path: string,
  headers: Readonly<Record<string, string>> = {},
): Promise<Answered> {
  return answered(await console(new Request(ORIGIN + path, { headers })))
}

export async function namesIn(console: Console, query: string): Promise<readonly string[]> {
  const { body } = await get(console, `/api/leases?namespace=billing&${query}`)
  return body.rows.map(({ lease }) => lease)
}

export async function post(
  console: Console,
  path: string,
  body: unknown,
  headers: Readonly<Record<string, string>> = OWN,
): Promise<Answered> {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  return answered(await console(new Request(ORIGIN + path, { method: 'POST', headers, body: text })))
}

async function answered(response: Response): Promise<Answered> {
  const { status, headers } = response
  return { status, headers, body: (await response.json()) as Answer }
}
