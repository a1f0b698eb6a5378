import { defineConfig } from 'prisma/config'

// oxlint-disable-next-line import/no-default-export -- Prisma reads it so
export default defineConfig({ schema: 'schema.prisma' })
