/** The console within the servers of applications, for operators who have logged in. */
import { createServer, type RequestListener, type Server } from 'node:http'
import type { Express } from 'express'
import type { FastifyInstance } from 'fastify'
import type { Hono } from 'hono'
import type Koa from 'koa'
import { createConsole, toNodeListener, type LeaseConsole, type OperatorAction } from 'lease-console'
import type { Manager } from 'lease-core'

/** Who sent a request, as the application knows it. */
export interface Session {
  readonly user: string
  readonly isOperator: boolean
}

/** The smallest one: everybody who reaches it may look, and nobody can change anything. */
export function readOnlyConsole(manager: Manager): LeaseConsole {
  return createConsole({ managers: { billing: manager } })
}

/** Employees may look, operators may revoke and pin, and each action is written down. */
export function operatorsConsole(
  manager: Manager,
  sessionOf: (request: Request) => Promise<Session | undefined>,
  writeDown: (action: OperatorAction) => void,
): LeaseConsole {
  return createConsole({
    managers: { billing: manager },
    basePath: '/leases',
    environment: 'production',
    readOnly: false,
    authorize: async (request, action) => {
      const session = await sessionOf(request)
      if (session === undefined) return Response.redirect(new URL('/login', request.url), 302)
      const isRead = action.kind === 'view' || action.kind === 'health'
      return isRead || session.isOperator ? { who: session.user } : false
    },
    onAction: writeDown,
  })
}

export function onNode(console: LeaseConsole, application: RequestListener): Server {
  const listener = toNodeListener(console)
  return createServer((request, response) => {
    if (request.url?.startsWith('/leases')) listener(request, response)
    else application(request, response)
  })
}

export function onExpress(console: LeaseConsole, app: Express): void {
  app.use('/leases', toNodeListener(console))
}

export function onHono(console: LeaseConsole, app: Hono): void {
  app.all('/leases/*', (context) => console(context.req.raw))
}

export function onFastify(console: LeaseConsole, app: FastifyInstance): void {
  const listener = toNodeListener(console)
  app.all('/leases/*', (request, reply) => {
    reply.hijack()
    listener(Object.assign(request.raw, { body: request.body }), reply.raw)
  })
}

export function onKoa(console: LeaseConsole, app: Koa): void {
  const listener = toNodeListener(console)
  app.use(async (context, next) => {
    if (!context.path.startsWith('/leases')) return await next()
    context.respond = false
    return listener(context.req, context.res)
  })
}
